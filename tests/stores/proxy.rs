//! What stands between a client and a server that speaks HTTP, and lets each
//! request have its fate.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It is not passed on.
    CutBefore,
    /// The server has carried it out, and the answer is lost.
    CutAfter,
    /// Half of the answer comes.
    CutInside,
    /// It is not passed on: "503 SlowDown".
    Busy,
    /// It is carried out, and the answer is "500".
    FailedAfter,
    /// It is carried out twice; the second answer comes, as when a connection
    /// that was kept is closed.
    Twice,
    /// One bit of the content is another one.
    Damaged,
    Late,
    /// It is not passed on: "200".
    Said200,
    /// It is carried out, the answer is lost, and nobody listens any more.
    Last,
}

/// Decides by the first line of a request, such as "PUT /bucket/key HTTP/1.1".
pub type Judge = Box<dyn FnMut(&str) -> Fate + Send>;

struct Shared {
    upstream: String,
    judge: Mutex<Judge>,
    is_over: AtomicBool,
    /// Requests that were not just passed on.
    struck: AtomicUsize,
    address: SocketAddr,
}

/// Ends with this value.
pub struct Proxy {
    shared: Arc<Shared>,
    pub endpoint: String,
}

impl Proxy {
    /// `endpoint`: "http://127.0.0.1:1234".
    pub fn before(endpoint: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: endpoint.trim_start_matches("http://").to_owned(),
            judge: Mutex::new(Box::new(|_| Fate::Pass)),
            is_over: AtomicBool::new(false),
            struck: AtomicUsize::new(0),
            address,
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if serving.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, client) = (Arc::clone(&serving), client.unwrap());
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Proxy { shared, endpoint: format!("http://{address}") }
    }

    pub fn judge(&self, judge: impl FnMut(&str) -> Fate + Send + 'static) {
        *self.shared.judge.lock().unwrap() = Box::new(judge);
    }

    /// The first request whose line contains this has this fate, and no other.
    pub fn once(&self, line: &'static str, fate: Fate) {
        let mut left = Some(fate);
        self.judge(move |found| match found.contains(line) {
            true => left.take().unwrap_or(Fate::Pass),
            false => Fate::Pass,
        });
    }

    pub fn struck(&self) -> usize {
        self.shared.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Headers and content of a message; `None` at the end.
fn message(from: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    from.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn answer(status: &str, code: &str, length: bool) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    let body = if length { body } else { String::new() };
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Shared {
    /// From then on nobody listens.
    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass_on(&self, head: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut server = TcpStream::connect(&self.upstream).ok()?;
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(head.as_bytes()).ok()?;
        server.write_all(body).ok()?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head =
            String::from_utf8_lossy(&answer[..end]).replace("Connection: close", "Connection: Keep-Alive");
        Some([head.as_bytes(), &answer[end..]].concat())
    }

    /// Until the client, or a fate, closes the connection.
    fn serve(&self, mut client: TcpStream) {
        while let Some((head, body)) = message(&mut client) {
            if self.is_over.load(Ordering::SeqCst) {
                break;
            }
            let line = head.lines().next().unwrap().to_owned();
            let fate = (self.judge.lock().unwrap())(&line);
            if fate != Fate::Pass {
                self.struck.fetch_add(1, Ordering::SeqCst);
            }
            let with_body = !line.starts_with("HEAD");
            let reply = match fate {
                Fate::CutBefore => None,
                Fate::Busy => Some(answer("503 Slow Down", "SlowDown", with_body)),
                Fate::Said200 => Some(answer("200 OK", "", false)),
                Fate::Late => {
                    std::thread::sleep(Duration::from_millis(200));
                    self.pass_on(&head, &body)
                }
                Fate::Twice => self.pass_on(&head, &body).and_then(|_| self.pass_on(&head, &body)),
                _ => self.pass_on(&head, &body),
            };
            let reply = match (fate, reply) {
                (Fate::Last, _) => {
                    self.end();
                    break;
                }
                (Fate::CutAfter, _) | (_, None) => break,
                (Fate::FailedAfter, Some(_)) => answer("500 Oh", "InternalError", with_body),
                (Fate::CutInside, Some(reply)) => reply[..reply.len() / 2].to_vec(),
                (Fate::Damaged, Some(mut reply)) => {
                    let last = reply.len() - 1;
                    reply[last] ^= 1;
                    reply
                }
                (_, Some(reply)) => reply,
            };
            if client.write_all(&reply).is_err() || fate == Fate::CutInside {
                break;
            }
        }
        let _gone_already = client.shutdown(Shutdown::Both);
    }
}
