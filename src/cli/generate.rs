//! Man pages and completions, from the definition of the command line.

use std::path::Path;

use clap::CommandFactory;

use super::args::Words;
use super::Session;
use crate::error::{Error, Result};

const FILES: &str = "\
.SH FILES
.TP
.I /etc/archipelago/archipelago.toml
Named stores, for every user of this host. What it says cannot be changed by the next one.
.TP
.I $XDG_CONFIG_HOME/archipelago/archipelago.toml
The user's own stores.
.TP
.I ARCHIPELAGO_CONFIG
An environment variable: the file it names is read alone.
.PP
Without any of them there is one store, made on first use: root's in
.I /var/lib/archipelago
and a user's in
.IR $XDG_DATA_HOME/archipelago/store .
.PP
.nf
default_store = \"main\"
[stores.main]
url = \"dir:/srv/vms\"
mode = \"0660\"
group = \"kvm\"
block_size = \"4M\"
log_limit = \"256M\"
when_full = \"wait\"
cache = \"/var/cache/archipelago\"
cache_size = \"10G\"
sealed = \"nas\"
[stores.nas]
url = \"dir:/mnt/nas/archipelago\"
.fi
.PP
.B when_full
says what becomes of what needs room when there is none:
.B \"error\"
(also without it) fails it, and QEMU stops the machine or tells it, as
.I werror
says;
.B \"wait\"
keeps it waiting until there is room. Closing the volume fails what waits.
.PP
.B sealed
names a place for blocks that snapshots have;
.B archipelago gc
carries them there. It is said when the store is made, and the place holds nothing else.
.PP
.B cache
names a folder of a local disk that keeps what was read of blocks that nobody writes any more. It
may be written to by nobody but root, the user of the process and the store's
.BR group .
.TP
.I /run/archipelago
Sockets of the processes that hold volumes, by which
.B status, snapshot, resize
and
.B rm
reach them. Anybody may make files there (mode 1777). If it is missing and cannot be made:
.IR $XDG_RUNTIME_DIR/archipelago .
.I ARCHIPELAGO_RUN_DIR
names another folder for a process. Root, the process's own user and members of the store's
.B group
are heard.
";

pub fn completions(session: &Session, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Words::command(), "archipelago", &mut script);
    session.output.write(&script)
}

/// One page for the command and one for each verb.
pub fn man(folder: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::from_io("write the man pages into", error).on_named(folder.display().to_string())
    };
    let mut command = Words::command();
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone().after_help(""));
    man.render(&mut page).map_err(failed)?;
    let mut text = String::from_utf8_lossy(&page).into_owned();
    text.push_str(&exit_codes());
    text.push_str(FILES);
    std::fs::write(folder.join("archipelago.1"), text).map_err(failed)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("archipelago-{}", verb.get_name());
        let mut page = Vec::new();
        clap_mangen::Man::new(verb.clone()).render(&mut page).map_err(failed)?;
        std::fs::write(folder.join(format!("{name}.1")), page).map_err(failed)?;
    }
    Ok(())
}

fn exit_codes() -> String {
    let mut text = ".SH \"EXIT STATUS\"\n".to_owned();
    for line in super::exit::TABLE.lines().filter(|line| line.starts_with("  ")) {
        if let Some((code, meaning)) = line.trim_start().split_once(' ') {
            text.push_str(&format!(".TP\n{code}\n{}\n", meaning.trim_start()));
        }
    }
    text
}
