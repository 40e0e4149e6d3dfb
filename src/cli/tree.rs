//! `archipelago ls --tree`: volumes, their snapshots, and the clones of those.

use std::collections::HashSet;

use super::census::{Census, Sizes, SnapshotRow, VolumeRow};
use super::ls::{size_cells, state};
use super::output::{size_text, table};
use crate::name::Id;

/// Rows of the tree: a drawn name and what belongs to it.
struct Drawing<'a> {
    census: &'a Census,
    quick: bool,
    rows: Vec<Vec<String>>,
    drawn: HashSet<usize>,
}

pub fn draw(census: &Census, store: &str, quick: bool) -> String {
    let heading: &[&str] = if quick { &["", "SIZE", ""] } else { &["", "SIZE", "OWN", "SHARED", ""] };
    let rows = vec![heading.iter().map(|cell| (*cell).to_owned()).collect()];
    let mut drawing = Drawing { census, quick, rows, drawn: HashSet::new() };
    let ids: HashSet<Id> = census.snapshots.iter().map(|row| row.snapshot.id).collect();
    let is_root = |volume: &VolumeRow| match &volume.head.parent {
        Some(parent) => !ids.contains(&parent.snapshot_id),
        None => true,
    };
    let roots: Vec<usize> =
        census.volumes.iter().enumerate().filter(|(_, volume)| is_root(volume)).map(|(at, _)| at).collect();
    let mut nodes: Vec<Node> = roots.into_iter().map(Node::Volume).collect();
    // Snapshots whose volume has no name any more are not hidden.
    let known: HashSet<Id> = census.volumes.iter().map(|volume| volume.id).collect();
    for (at, row) in census.snapshots.iter().enumerate() {
        if !known.contains(&row.snapshot.volume) {
            nodes.push(Node::Orphan(at));
        }
    }
    drawing.children("", &nodes);
    format!("store {store}\n{}", table(&drawing.rows, if quick { &[1] } else { &[1, 2, 3] }))
}

#[derive(Clone, Copy)]
enum Node {
    Volume(usize),
    Snapshot(usize),
    /// A snapshot without a volume.
    Orphan(usize),
    /// Pending snapshot: volume, position in its list.
    Pending(usize, usize),
}

impl Drawing<'_> {
    fn children(&mut self, indent: &str, nodes: &[Node]) {
        for (at, node) in nodes.iter().enumerate() {
            let is_last = at + 1 == nodes.len();
            let branch = format!("{indent}{}", if is_last { "└─ " } else { "├─ " });
            let below = format!("{indent}{}", if is_last { "   " } else { "│  " });
            self.node(&branch, &below, *node);
        }
    }

    fn node(&mut self, branch: &str, below: &str, node: Node) {
        let census = self.census;
        match node {
            Node::Volume(at) => {
                // A rename that was interrupted shows a volume twice.
                if !self.drawn.insert(at) {
                    return;
                }
                let volume = &census.volumes[at];
                let words = self.origin(volume);
                self.row(format!("{branch}{}", volume.name), volume.size_bytes, Some(volume.sizes), words);
                let mut nodes = self.snapshots_of(volume.id);
                for (listed, snapshot) in volume.snapshots.iter().enumerate() {
                    if snapshot.pending {
                        nodes.push(Node::Pending(at, listed));
                    }
                }
                self.children(below, &nodes);
            }
            Node::Snapshot(at) | Node::Orphan(at) => {
                let SnapshotRow { snapshot, sizes, error } = &census.snapshots[at];
                let mut words = error.as_ref().map(|error| format!("CANNOT BE READ: {error}"));
                if matches!(node, Node::Orphan(_)) {
                    words = Some(format!("of removed volume '{}'", snapshot.volume_name_hint));
                }
                let words = words.unwrap_or_default();
                self.row(format!("{branch}@{}", snapshot.name), snapshot.size_bytes, Some(*sizes), words);
                let clones: Vec<Node> = (0..census.volumes.len())
                    .filter(|at| {
                        let parent = census.volumes[*at].head.parent.as_ref();
                        parent.is_some_and(|parent| parent.snapshot_id == snapshot.id)
                    })
                    .map(Node::Volume)
                    .collect();
                self.children(below, &clones);
            }
            Node::Pending(at, listed) => {
                let snapshot = &census.volumes[at].snapshots[listed];
                let name = format!("{branch}@{}", snapshot.name);
                self.row(name, snapshot.size_bytes, None, "pending: not published yet".into());
            }
        }
    }

    fn snapshots_of(&self, volume: Id) -> Vec<Node> {
        let rows = self.census.snapshots.iter().enumerate();
        rows.filter(|(_, row)| row.snapshot.volume == volume).map(|(at, _)| Node::Snapshot(at)).collect()
    }

    fn origin(&self, volume: &VolumeRow) -> String {
        let words = state(volume);
        let Some(parent) = &volume.head.parent else { return words };
        if self.census.snapshots.iter().any(|row| row.snapshot.id == parent.snapshot_id) {
            return words;
        }
        let from = format!("clone of snapshot '{}', which was removed", parent.snapshot);
        if words.is_empty() { from } else { format!("{words}; {from}") }
    }

    fn row(&mut self, name: String, size_bytes: u64, sizes: Option<Sizes>, words: String) {
        let mut row = vec![name, size_text(size_bytes)];
        if !self.quick {
            match sizes {
                Some(sizes) => row.extend(size_cells(self.census, sizes)),
                None => row.extend([String::new(), String::new()]),
            }
        }
        row.push(words);
        self.rows.push(row);
    }
}
