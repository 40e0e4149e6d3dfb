//! `archipelago ls`: what there is and what it takes.

use serde_json::{json, Value};

use super::census::{self, Census, Sizes, SnapshotRow, VolumeRow};
use super::output::{size_text, table};
use super::{lease, tree, Session};
use crate::catalog::identity::utc_text;
use crate::error::Result;

pub fn run(session: &Session, as_tree: bool, quick: bool) -> Result<()> {
    let store = session.store(false)?;
    let census = census::take(&store, &session.output, !quick)?;
    let value = json(&census, &store.name, quick);
    session.output.show(&value, || match as_tree {
        true => tree::draw(&census, &store.describe(), quick) + &reclaimable(&census),
        false => text(&census, quick) + &reclaimable(&census),
    })
}

fn text(census: &Census, quick: bool) -> String {
    let heading = match quick {
        true => vec!["VOLUME", "SIZE", "SNAPSHOTS", ""],
        false => vec!["VOLUME", "SIZE", "OWN", "SHARED", "LOG", "SNAPSHOTS", ""],
    };
    let mut rows: Vec<Vec<String>> = vec![heading.into_iter().map(str::to_owned).collect()];
    for volume in &census.volumes {
        let mut row = vec![volume.name.to_string(), size_text(volume.size_bytes)];
        if !quick {
            row.extend(size_cells(census, volume.sizes));
            row.push(size_text(volume.log_bytes));
        }
        row.push(volume.snapshots.len().to_string());
        row.push(state(volume));
        rows.push(row);
    }
    for (name, store) in &census.moved {
        let mut row = vec![String::new(); if quick { 3 } else { 6 }];
        row[0] = name.to_string();
        row.push(format!("in store '{store}'"));
        rows.push(row);
    }
    table(&rows, if quick { &[1, 2] } else { &[1, 2, 3, 4, 5] })
}

fn reclaimable(census: &Census) -> String {
    match census.reclaimable_bytes {
        Some(bytes) if bytes > 0 => format!("reclaimable: {}, with: archipelago gc\n", size_text(bytes)),
        _ => String::new(),
    }
}

/// Own and shared bytes, with a sign where they are an upper bound.
pub fn size_cells(census: &Census, sizes: Sizes) -> [String; 2] {
    let sign = if census.is_exact { "" } else { "~" };
    [sizes.own_bytes, sizes.shared_bytes].map(|bytes| format!("{sign}{}", size_text(bytes)))
}

pub fn state(volume: &VolumeRow) -> String {
    let mut words = lease::short(&volume.lease);
    if let Some(error) = &volume.error {
        words = format!("CANNOT BE READ: {error}");
    }
    words
}

fn json(census: &Census, store: &str, quick: bool) -> Value {
    let sizes = |value: &mut Value, sizes: Sizes| {
        if !quick {
            value["own_bytes"] = sizes.own_bytes.into();
            value["shared_bytes"] = sizes.shared_bytes.into();
        }
    };
    let volumes: Vec<Value> = census
        .volumes
        .iter()
        .map(|volume| {
            let mut value = volume_json(volume);
            sizes(&mut value, volume.sizes);
            if !quick {
                value["log_bytes"] = volume.log_bytes.into();
            }
            let published = census.snapshots.iter().filter(|row| row.snapshot.volume == volume.id);
            value["snapshots"] = published
                .map(|row| {
                    let mut value = snapshot_json(row);
                    sizes(&mut value, row.sizes);
                    value
                })
                .collect();
            value["pending_snapshots"] = volume
                .snapshots
                .iter()
                .filter(|listed| listed.pending)
                .map(|listed| listed.name.as_str())
                .collect();
            value
        })
        .collect();
    json!({
        "store": store,
        "exact": census.is_exact,
        "reclaimable_bytes": census.reclaimable_bytes,
        "volumes": volumes,
        "moved": census.moved.iter().map(|(name, store)| {
            json!({ "name": name.as_str(), "store": store })
        }).collect::<Vec<_>>(),
    })
}

fn volume_json(volume: &VolumeRow) -> Value {
    let parent = volume.head.parent.as_ref().map(|parent| {
        json!({ "volume_id": parent.volume.to_string(), "snapshot": parent.snapshot.as_str() })
    });
    json!({
        "name": volume.name.as_str(),
        "id": volume.id.to_string(),
        "size_bytes": volume.size_bytes,
        "block_bytes": volume.head.block_bytes,
        "created": utc_text(volume.head.created_s),
        "parent": parent,
        "lease": lease::json(&volume.lease),
        "error": volume.error,
    })
}

fn snapshot_json(row: &SnapshotRow) -> Value {
    json!({
        "name": row.snapshot.name.as_str(),
        "id": row.snapshot.id.to_string(),
        "size_bytes": row.snapshot.size_bytes,
        "created": utc_text(row.snapshot.created_s),
        "error": row.error,
    })
}
