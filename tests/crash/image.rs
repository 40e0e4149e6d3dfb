//! What a store holds at one moment, made to be copied and digested a million
//! times: objects and granules are shared between copies, and the digest is
//! kept up to date by every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago::backend::order::ByText;
use archipelago::name::ObjectName;

pub const SECTOR: usize = 512;
const GRANULE: usize = 4096;

#[derive(Clone, Debug)]
struct Granule {
    data: [u8; GRANULE],
    hash: u64,
}

/// One object. Granules of zeroes are not kept.
#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: u64,
    granules: Vec<Option<Arc<Granule>>>,
    /// Of its name.
    text: Arc<str>,
    name_hash: u64,
    /// Of all granules; order does not matter, because each is mixed with
    /// its place.
    content: u64,
}

/// A store's objects.
#[derive(Clone, Debug, Default)]
pub struct Image {
    objects: BTreeMap<ByText, Arc<Object>>,
    digest: u64,
    /// Nobody asks for the digest, which is the half of a write.
    plain: bool,
}

pub fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b ^ 0xD6E8_FEB8_6659_FD93);
    (wide as u64) ^ ((wide >> 64) as u64)
}

pub fn hash_bytes(data: &[u8]) -> u64 {
    let mut lanes = [1u64, 2, 3, 4];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            *lane = mix(*lane, word);
        }
    }
    let mut end = [0u8; 32];
    end[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    for word in end.chunks_exact(8) {
        lanes[0] = mix(lanes[0], u64::from_le_bytes(word.try_into().unwrap()));
    }
    mix(mix(lanes[0], lanes[1]), mix(lanes[2], lanes[3])).wrapping_add(data.len() as u64)
}

fn is_zero(data: &[u8]) -> bool {
    const ZEROES: [u8; GRANULE] = [0; GRANULE];
    *data == ZEROES[..data.len()]
}

impl Object {
    fn new(name: &ObjectName, bytes: u64) -> Object {
        let count = bytes.div_ceil(GRANULE as u64) as usize;
        let text: Arc<str> = Arc::from(name.to_string());
        let name_hash = hash_bytes(text.as_bytes());
        Object { bytes, granules: vec![None; count], text, name_hash, content: 0 }
    }

    fn digest(&self) -> u64 {
        mix(mix(self.name_hash, self.bytes), self.content)
    }

    fn place_hash(at: usize, granule: &Option<Arc<Granule>>) -> u64 {
        granule.as_ref().map_or(0, |granule| mix(at as u64 + 1, granule.hash))
    }

    /// Overwrites a part of a granule, or all of it.
    fn set(&mut self, at: usize, inside: usize, data: &[u8], plain: bool) {
        if !plain {
            self.content = self.content.wrapping_sub(Object::place_hash(at, &self.granules[at]));
        }
        let slot = &mut self.granules[at];
        match slot {
            // Its place counts for nothing, before and after.
            None if is_zero(data) => return,
            Some(_) if data.len() == GRANULE => *slot = None,
            _ => {}
        }
        if slot.is_some() || !is_zero(data) {
            let granule = slot.get_or_insert_with(|| Arc::new(Granule { data: [0; GRANULE], hash: 0 }));
            let granule = Arc::make_mut(granule);
            granule.data[inside..inside + data.len()].copy_from_slice(data);
            granule.hash = if plain { 0 } else { hash_bytes(&granule.data) };
            if is_zero(&granule.data) {
                *slot = None;
            }
        }
        if !plain {
            self.content = self.content.wrapping_add(Object::place_hash(at, &self.granules[at]));
        }
    }

    fn write(&mut self, offset: usize, data: &[u8], plain: bool) {
        let mut done = 0;
        while done < data.len() {
            let (at, inside) = ((offset + done) / GRANULE, (offset + done) % GRANULE);
            let take = (GRANULE - inside).min(data.len() - done);
            self.set(at, inside, &data[done..done + take], plain);
            done += take;
        }
    }

    /// Fills `buf`, returns how much is there.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let bytes = (self.bytes.saturating_sub(offset) as usize).min(buf.len());
        let mut done = 0;
        while done < bytes {
            let place = offset as usize + done;
            let (at, inside) = (place / GRANULE, place % GRANULE);
            let take = (GRANULE - inside).min(bytes - done);
            let target = &mut buf[done..done + take];
            match &self.granules[at] {
                Some(granule) => target.copy_from_slice(&granule.data[inside..inside + take]),
                None => target.fill(0),
            }
            done += take;
        }
        bytes
    }

    pub fn allocated_bytes(&self) -> u64 {
        self.granules.iter().flatten().count() as u64 * GRANULE as u64
    }
}

impl Image {
    /// The same store, of which nobody wants the digest any more.
    pub fn plain(&self) -> Image {
        Image { plain: true, ..self.clone() }
    }

    /// A number that differs between any two images that differ.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn get(&self, name: &ObjectName) -> Option<&Arc<Object>> {
        self.objects.get(&ByText(name.clone()))
    }

    /// All names and their texts, in the order of listings.
    pub fn names(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.objects.iter().map(|(key, object)| (&key.0, &*object.text))
    }

    /// Names from the first that is not before `from`, and their texts.
    pub fn names_from(&self, from: ByText) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.objects.range(from..).map(|(key, object)| (&key.0, &*object.text))
    }

    /// False if the name is taken.
    pub fn create(&mut self, name: &ObjectName, bytes: u64, data: &[u8]) -> bool {
        if let Some(there) = self.get(name).map(|there| there.bytes) {
            return there < bytes && self.lengthen(name, bytes);
        }
        let mut object = Object::new(name, bytes);
        object.write(0, data, self.plain);
        self.digest = self.digest.wrapping_add(object.digest());
        self.objects.insert(ByText(name.clone()), Arc::new(object));
        true
    }

    /// What a crash has left short gets zeroes at its end.
    fn lengthen(&mut self, name: &ObjectName, bytes: u64) -> bool {
        let Some(slot) = self.objects.get_mut(&ByText(name.clone())) else { return false };
        let before = slot.digest();
        let object = Arc::make_mut(slot);
        object.bytes = bytes;
        object.granules.resize(bytes.div_ceil(GRANULE as u64) as usize, None);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(slot.digest());
        true
    }

    /// False if there is no such object, or if it is shorter: what was written
    /// beyond the length that a crash left is not there.
    pub fn write(&mut self, name: &ObjectName, offset: u64, data: &[u8]) -> bool {
        if self.get(name).is_some_and(|there| there.bytes < offset + data.len() as u64) {
            return false;
        }
        let Some(slot) = self.objects.get_mut(&ByText(name.clone())) else { return false };
        let before = slot.digest();
        Arc::make_mut(slot).write(offset as usize, data, self.plain);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(slot.digest());
        true
    }

    pub fn delete(&mut self, name: &ObjectName) -> bool {
        match self.objects.remove(&ByText(name.clone())) {
            Some(object) => {
                self.digest = self.digest.wrapping_sub(object.digest());
                true
            }
            None => false,
        }
    }
}
