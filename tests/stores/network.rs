//! The servers on another host, with a cable to this one that can be pulled:
//! what is sent then vanishes, and nobody is told.
//!
//! That host is a network of its own. The servers listen on its 127.0.0.1, which
//! from here is on the other end of the cable; so they need not know of it. The
//! process itself must be in a network of its own, with nothing on 127.0.0.1:
//! see `alone`.

use std::process::{Child, Command, Stdio};

use super::rados_faults::ip;

/// For `in_a_process`: with names of hosts of its own too, which servers add to.
pub const ALONE: [&str; 3] = ["unshare", "--net", "--mount"];

pub struct Network {
    /// Keeps the network of the servers, until its input ends.
    servers: Child,
    _names: tempfile::TempDir,
}

fn tell(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
}

impl Network {
    /// In a process that was started by `ALONE`.
    pub fn new() -> Network {
        let names = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let hosts = names.path().join("hosts");
        std::fs::copy("/etc/hosts", &hosts).unwrap();
        tell(&["mount", "--bind", hosts.to_str().unwrap(), "/etc/hosts"]);
        let script = "ip link set lo up && echo && read -r _";
        let mut servers = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(servers.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let network = Network { servers, _names: names };
        network.lay_cable();
        network
    }

    fn lay_cable(&self) {
        let servers = self.servers.id().to_string();
        ip(&["link", "add", "name", "client", "type", "veth", "peer", "name", "server", "netns", &servers]);
        self.ip_of_servers(&["address", "add", "192.0.2.2/30", "dev", "server"]);
        self.ip_of_servers(&["link", "set", "server", "up"]);
        let script = "echo 1 >/proc/sys/net/ipv4/conf/server/route_localnet";
        tell(&[&self.before().each_ref().map(String::as_str)[..], &["sh", "-c", script]].concat());
        ip(&["address", "add", "192.0.2.1/30", "dev", "client"]);
        ip(&["link", "set", "client", "up"]);
        std::fs::write("/proc/sys/net/ipv4/conf/client/route_localnet", "1").unwrap();
        ip(&["route", "add", "127.0.0.1", "via", "192.0.2.2", "src", "192.0.2.1"]);
    }

    /// The words of a program that runs another one where the servers are.
    pub fn before(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.servers.id())]
    }

    fn ip_of_servers(&self, words: &[&str]) {
        tell(&[&self.before().each_ref().map(String::as_str)[..], &["ip"], words].concat());
    }

    pub fn cut(&self) {
        self.ip_of_servers(&["link", "set", "server", "down"]);
    }

    pub fn mend(&self) {
        self.ip_of_servers(&["link", "set", "server", "up"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.servers.stdin.take());
        let _status = self.servers.wait();
    }
}
