//! The control socket: `archipelago` on the same host asks the process that
//! holds a volume to do what only that process may.
//!
//! A process that opens a volume to write it listens on a socket whose path is
//! in the lease. Who wants something of the volume reads the lease, connects,
//! and makes sure that it is the lease's process which answers (`client`).

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Device, DeviceOptions};
use crate::store::Store;
use crate::volume::Mode;

mod answer;
pub mod client;
pub mod desk;
pub mod jobs;
pub mod moving;
pub mod place;
pub mod server;
pub mod words;

use desk::Seat;
use jobs::Kinds;
use server::Server;

/// An open device that others can ask about, if it may be written to.
#[derive(Debug)]
pub struct Held {
    device: Arc<Device>,
    /// Not for what is open read-only.
    served: crate::sync::Mutex<Option<Served>>,
    group: Option<u32>,
}

#[derive(Clone, Debug)]
struct Served {
    seat: Arc<Seat>,
    /// The last volume's end is the socket's.
    server: Arc<Server>,
}

/// The long jobs that the holder of a volume can be asked for.
fn kinds() -> Kinds {
    vec![Arc::new(moving::Move)]
}

/// The socket of this process. It is no reason not to serve a guest if there
/// can be none.
fn server() -> Option<Arc<Server>> {
    match Server::of_this_process(kinds) {
        Ok(server) => Some(server),
        Err(error) => {
            ::log::info!("no control socket: {}", error.full());
            None
        }
    }
}

impl Held {
    /// Opens a volume or a snapshot.
    pub fn open(store: Store, options: DeviceOptions) -> Result<Held> {
        let may_write = options.snapshot.is_none() && options.active == Mode::Writable;
        let server = if may_write { server() } else { None };
        Held::open_with(store, options, server)
    }

    /// The same, with a socket of one's own.
    pub fn open_with(store: Store, mut options: DeviceOptions, server: Option<Arc<Server>>) -> Result<Held> {
        let group = store.group;
        options.open.lease.socket = server.as_ref().map(|server| server.path().to_owned());
        let device = Arc::new(Device::open(store, options)?);
        let held = Held { device, served: crate::sync::Mutex::default(), group };
        held.seat(server);
        Ok(held)
    }

    fn seat(&self, server: Option<Arc<Server>>) {
        *self.served.lock() = server.map(|server| {
            let seat = server.desk().add(Arc::clone(&self.device), self.group);
            Served { seat, server }
        });
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn inactivate(&self) -> Result<()> {
        self.change(|device| device.inactivate())
    }

    pub fn activate(&self) -> Result<()> {
        self.change(|device| device.activate())
    }

    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let is_first = !read_only && self.served.lock().is_none();
        if is_first && self.device.volume().mode() != Mode::Writable {
            let server = server();
            self.device.set_socket(server.as_ref().map(|server| server.path().to_owned()));
            self.seat(server);
        }
        self.change(|device| device.set_read_only(read_only))
    }

    /// Nobody who asks is in the way, and no job goes on.
    fn change(&self, change: impl FnOnce(&Device) -> Result<()>) -> Result<()> {
        let served = self.served.lock().clone();
        let _shut = served.as_ref().map(|served| served.seat.shut());
        change(&self.device)
    }

    /// Who asks is answered first, jobs end, and the socket goes with the last
    /// volume of the process, before its lease is given back.
    pub fn close(self) -> Result<()> {
        if let Some(Served { seat, server }) = self.served.lock().take() {
            let _shut = seat.shut();
            server.desk().remove(&seat);
            drop(server);
        }
        self.device.close()
    }
}

/// The sentence of what a process without a socket cannot be asked.
pub fn no_socket(in_use: &str) -> Error {
    Error::sentence(
        ErrorKind::Busy,
        format!(
            "{in_use}, which has no control socket: a command that is at work has none, and a machine \
             finds no folder for one unless root makes it first (mkdir -m 1777 /run/archipelago)"
        ),
    )
}
