//! The words of the command line. Help, man pages and completions all come
//! from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::exit;
use crate::config::parse_size;
use crate::name::{SnapshotName, VolumeName};

/// VM disks as maps of named blocks: snapshots and thin clones in an instant.
#[derive(Debug, Parser)]
#[command(name = "archipelago", version, after_help = exit::TABLE, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub struct Words {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Args)]
pub struct Common {
    /// The configured store that is meant, instead of the default one
    #[arg(long, global = true, value_name = "NAME", help_heading = "Everywhere")]
    pub store: Option<String>,
    /// Read this configuration file alone
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Show progress although standard error is no terminal
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub progress: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the store that is configured
    Init {
        /// Block size of volumes made without saying, 16K to 64M
        #[arg(long, value_name = "SIZE", value_parser = size)]
        block_size: Option<u64>,
    },
    /// Make a volume of zeroes
    Create {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
        /// Such as 10G; K, M, G, T mean powers of 1,024
        #[arg(value_parser = size)]
        size: u64,
        /// Bytes per block, a power of two from 16K to 64M
        #[arg(long, value_name = "SIZE", value_parser = size)]
        block_size: Option<u64>,
    },
    /// List volumes
    Ls {
        /// Draw volumes, snapshots and clones as a tree
        #[arg(long)]
        tree: bool,
        /// Names only: no sizes are added up
        #[arg(long, short)]
        quick: bool,
    },
    /// Show a volume or a snapshot
    Info {
        #[arg(value_name = "VOL[@SNAP]", value_parser = target)]
        target: Target,
    },
    /// Show how a volume does that is in use, as the process says that holds it
    ///
    /// It is asked over its control socket, on this host only. Without a holder, or where
    /// it cannot be asked, what the store tells is shown.
    Status {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
    },
    /// Remove volumes or snapshots; clones of them stay
    ///
    /// A snapshot of a volume that is in use is removed by the process that holds it.
    Rm {
        #[arg(value_name = "VOL[@SNAP]", value_parser = target, required = true)]
        targets: Vec<Target>,
        /// Remove the snapshots of the volumes too
        #[arg(long)]
        snapshots: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Give a volume another name
    Rename {
        #[arg(value_name = "VOL", value_parser = volume)]
        from: VolumeName,
        #[arg(value_name = "NEW", value_parser = volume)]
        to: VolumeName,
    },
    /// Change the size of a volume
    ///
    /// If it is in use, the process that holds it makes it larger (never smaller). A machine's
    /// guest learns that when QEMU is told, over QMP: block_resize with the same size.
    Resize {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
        /// The new size, or +SIZE to add
        #[arg(value_parser = new_size)]
        size: NewSize,
        /// Allow what lies beyond the new end to be destroyed
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Move a volume, or all of them, to another store
    ///
    /// Also while they are used: the process that holds a volume moves it, and its guest goes on.
    /// Snapshots go with it and go on to share what they share; requests wait for a moment in the
    /// end. If more is written than can be moved, writes are slowed down to half of what is. What
    /// ends before that leaves the volume where it is, and what has been copied is not copied
    /// again. The old name leads on to the new store, as long as both are configured; the space
    /// there is given back by: archipelago gc.
    Move {
        /// VOL and STORE; with --all only STORE; with a word to a move that is going on, only VOL
        #[arg(value_name = "VOL|STORE", required = true, num_args = 1..=2)]
        words: Vec<String>,
        /// Every volume of the store
        #[arg(long)]
        all: bool,
        /// Copy no more than this each second, such as 50M
        #[arg(long, value_name = "SIZE", value_parser = size)]
        limit: Option<u64>,
        /// Call back a move that is going on
        #[arg(long, group = "word")]
        cancel: bool,
        /// Have it wait
        #[arg(long, group = "word")]
        pause: bool,
        /// Have it go on
        #[arg(long, group = "word")]
        resume: bool,
    },
    /// Keep copies of a store's volumes in another store, as standbys
    ///
    /// Every snapshot and clone of SRC is in DST afterwards, under the same names and sharing
    /// what they share, and each volume as it was when this began: a snapshot is taken for that,
    /// by the process that holds the volume if there is one, and called archipelago-sync- and 32
    /// digits. What DST has already is not copied again, also after a sync that was killed; what
    /// is copied is compared with its checksum, if scrub has made one, and read again. Snapshots
    /// that SRC has no more are removed from the standbys; all else in DST is left alone, and so
    /// is a standby whose volume SRC has no more. While it copies, DST's gc has to wait.
    ///
    /// A standby is listed, and its snapshots can be read and cloned; it is opened for writing
    /// after archipelago promote.
    ///
    /// Fail-over: archipelago --store DST promote --all, and start the machines on DST.
    /// Fail-back, when SRC is there again: make sure that nothing uses SRC's volume; take it away
    /// (archipelago --store SRC rm --snapshots VOL; a clone of one of its snapshots keeps what only
    /// SRC has); archipelago sync DST SRC; then, with the machines running, archipelago --store DST
    /// move VOL SRC. Let no gc of SRC run before that sync, and what is there is not copied again.
    Sync {
        #[arg(value_name = "SRC")]
        from: String,
        #[arg(value_name = "DST")]
        to: String,
        /// Go on doing it, whatever fails, until interrupted
        #[arg(long)]
        follow: bool,
        /// With --follow, how often
        #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
        every: f64,
        /// Copy no more than this each second, such as 50M
        #[arg(long, value_name = "SIZE", value_parser = size)]
        limit: Option<u64>,
    },
    /// Make a standby a volume that can be written to
    ///
    /// It has what the last sync brought that came to its end. The volume that it followed stays
    /// as it is; from here on there are two, and no sync touches this one any more. If the other
    /// store can be reached and its volume is in use there, that has to be meant: see --force. To
    /// change over without a loss, move the volume to its standby instead: archipelago move.
    Promote {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: Option<VolumeName>,
        /// Every standby of the store
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Also while the volume that it follows is in use
        #[arg(long)]
        force: bool,
    },
    /// Take a snapshot
    ///
    /// If the volume is in use, the process that holds it takes the snapshot: it has what the
    /// machine had written by then, as after a loss of power. Have the guest write out what it
    /// keeps in memory first (fsfreeze, or QEMU's guest agent) if that is to be in it.
    Snapshot {
        #[arg(value_name = "VOL@SNAP", value_parser = target)]
        target: Target,
        /// Take none; publish those of VOL that are pending, or wait until its holder has
        #[arg(long)]
        publish: bool,
    },
    /// Make a volume that starts from a snapshot
    Clone {
        #[arg(value_name = "VOL@SNAP", value_parser = snapshot_target)]
        source: (VolumeName, SnapshotName),
        #[arg(value_name = "NEW", value_parser = volume)]
        name: VolumeName,
        /// Larger than the snapshot
        #[arg(long, value_parser = size)]
        size: Option<u64>,
    },
    /// Make a volume what it was when a snapshot was taken
    Rollback {
        #[arg(value_name = "VOL@SNAP", value_parser = snapshot_target)]
        target: (VolumeName, SnapshotName),
        #[command(flatten)]
        dry: Dry,
    },
    /// Make a volume from a disk image; raw, or what qemu-img can read
    Import {
        /// The image; - is standard input, raw
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
        /// The image's format; without: found out from its beginning
        #[arg(long, short, value_name = "FORMAT")]
        format: Option<String>,
        /// Bytes per block, a power of two from 16K to 64M
        #[arg(long, value_name = "SIZE", value_parser = size)]
        block_size: Option<u64>,
    },
    /// Write a volume or a snapshot into a raw image
    ///
    /// Blocks that scrub has given a checksum are compared with it first.
    Export {
        #[arg(value_name = "VOL[@SNAP]", value_parser = target)]
        target: Target,
        /// The image; - is standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Overwrite FILE if it is there
        #[arg(long)]
        force: bool,
    },
    /// Draw which blocks are own, shared and zero
    Map {
        #[arg(value_name = "VOL[@SNAP]", value_parser = target)]
        target: Target,
    },
    /// Verify everything that volumes and snapshots need; changes nothing
    Check,
    /// Remove what no volume and no snapshot needs
    Gc {
        #[command(flatten)]
        dry: Dry,
    },
    /// Give the blocks of snapshots checksums, and compare those that have one
    Scrub {
        /// Compare from the first block, not where an interrupted scrub was
        #[arg(long)]
        restart: bool,
        /// Read at most so many bytes in a second
        #[arg(long, value_name = "BYTES", value_parser = size)]
        limit: Option<u64>,
        /// Only tell how the last one went
        #[arg(long, conflicts_with_all = ["restart", "limit"])]
        status: bool,
    },
    /// Look at, or break, the right of one writer to a volume
    #[command(subcommand)]
    Lease(LeaseVerb),
    /// Measure the store with a volume made for that
    Bench {
        /// Size of the volume
        #[arg(long, default_value = "256M", value_parser = size)]
        size: u64,
        /// For each measurement
        #[arg(long, value_name = "SECONDS", default_value_t = 3)]
        seconds: u64,
    },
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum LeaseVerb {
    /// Who holds a volume, and since when
    Show {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
    },
    /// Declare the holder dead. If it is not, the volume is damaged
    Break {
        #[arg(value_name = "VOL", value_parser = volume)]
        name: VolumeName,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Dry {
    /// Say what would be done, and do nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// `VOL` or `VOL@SNAP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub volume: VolumeName,
    pub snapshot: Option<SnapshotName>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => write!(f, "{}", self.volume),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    To(u64),
    Add(u64),
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds are meant, from 0.1 to 86400".to_owned()),
    }
}

fn new_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => size(more).map(NewSize::Add),
        None => size(text).map(NewSize::To),
    }
}

fn volume(text: &str) -> Result<VolumeName, String> {
    VolumeName::new(text).map_err(|error| error.to_string())
}

fn target(text: &str) -> Result<Target, String> {
    let (volume_text, snapshot) = match text.split_once('@') {
        Some((volume, snapshot)) => (volume, Some(snapshot)),
        None => (text, None),
    };
    let snapshot = snapshot.map(SnapshotName::new).transpose().map_err(|error| error.to_string())?;
    Ok(Target { volume: volume(volume_text)?, snapshot })
}

fn snapshot_target(text: &str) -> Result<(VolumeName, SnapshotName), String> {
    match target(text)? {
        Target { volume, snapshot: Some(snapshot) } => Ok((volume, snapshot)),
        Target { volume, .. } => Err(format!("a snapshot is meant: {volume}@SNAP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Words::command().debug_assert();
    }

    #[test]
    fn volumes_and_snapshots_are_told_apart() {
        assert_eq!(target("web").unwrap().to_string(), "web");
        assert_eq!(target("web@a.1").unwrap().to_string(), "web@a.1");
        for text in ["", "@", "web@", "@a", "web@a@b", "a/b", "-x"] {
            assert!(target(text).is_err(), "{text}");
        }
        assert!(snapshot_target("web").unwrap_err().contains("web@SNAP"));
        assert_eq!(new_size("+1K"), Ok(NewSize::Add(1024)));
        assert_eq!(new_size("1K"), Ok(NewSize::To(1024)));
    }
}
