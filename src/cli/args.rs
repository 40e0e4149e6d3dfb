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
    /// Remove volumes or snapshots; clones of them stay
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
    /// Take a snapshot
    Snapshot {
        #[arg(value_name = "VOL@SNAP", value_parser = target)]
        target: Target,
        /// Take none; publish those of VOL that are pending after a crash
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
