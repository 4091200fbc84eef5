//! A sealed chunk as shards, any of which as many as there are of data make it again (docs/reference/formats/zone-shard.md).
//!
//! What a server gives is a [`Shard`] only after its tag was found true under a key that no server has.

use std::fmt;
use std::str::FromStr;

use rustfs_erasure_codec::galois_8::ReedSolomon;

use crate::crypto::convergent::{MAX_SEALED, TAG};
use crate::crypto::shard_seal::ShardSeal;

/// What every shard's fields begin with; the last byte is the version of format and code, and changes with either.
const MAGIC: [u8; 4] = *b"cpz1";
/// Fields behind a shard's bytes, which are its tag's nonce as well, and then the tag.
const FIELDS: usize = 12;
const TRAILER: usize = FIELDS + TAG;
/// Most shards of a chunk.
const MOST: u8 = 32;

/// How many shards a chunk has: `4+2` are 4 of data and 2 of parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    data: u8,
    parity: u8,
}

impl Code {
    /// Shards that make the chunk.
    #[must_use]
    pub fn data(self) -> usize {
        self.data.into()
    }

    /// All.
    #[must_use]
    pub fn shards(self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Bytes of one shard of `length` bytes, without its fields.
    fn payload(self, length: usize) -> usize {
        length.div_ceil(self.data())
    }
}

impl Default for Code {
    fn default() -> Self {
        Self { data: 4, parity: 2 }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('+').and_then(|(data, parity)| {
            let code = Self { data: data.parse().ok()?, parity: parity.parse().ok()? };
            let shards = code.data.checked_add(code.parity)?;
            (code.data > 0 && shards <= MOST).then_some(code)
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is not an erasure code; use DATA+PARITY, such as 4+2, of {MOST} shards at most")
        })
    }
}

/// A part of a sealed chunk, found true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    index: u8,
    payload: Vec<u8>,
}

impl Shard {
    /// Which.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index.into()
    }
}

/// Makes shards of chunks, and chunks of shards.
pub struct Coder {
    code: Code,
    /// None where there is no parity.
    solomon: Option<ReedSolomon>,
}

impl Coder {
    /// Of `code`.
    #[must_use]
    pub fn new(code: Code) -> Self {
        let solomon = (code.parity > 0)
            .then(|| ReedSolomon::new(code.data(), code.parity.into()).expect("a code has 1 to 32 shards"));
        Self { code, solomon }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Bytes of a stored shard of a chunk of `length` sealed bytes.
    #[must_use]
    pub fn stored(&self, length: usize) -> usize {
        self.code.payload(length) + TRAILER
    }

    /// All shards of `sealed` as they are stored, each with its fields and tag behind it.
    #[must_use]
    pub fn split(&self, seal: &ShardSeal, sealed: &[u8]) -> Vec<Vec<u8>> {
        let length = self.code.payload(sealed.len());
        let mut shards: Vec<Vec<u8>> = Vec::with_capacity(self.code.shards());
        for index in 0..self.code.shards() {
            let mut shard = Vec::with_capacity(length + TRAILER);
            if index < self.code.data() {
                let at = |index: usize| (index * length).min(sealed.len());
                shard.extend_from_slice(&sealed[at(index)..at(index + 1)]);
            }
            shard.resize(length, 0);
            shards.push(shard);
        }
        if let Some(solomon) = &self.solomon {
            solomon.encode(&mut shards).expect("all shards have one length");
        }
        for (index, shard) in shards.iter_mut().enumerate() {
            let nonce = self.fields(u8::try_from(index).expect("below 32"), sealed.len());
            shard.extend_from_slice(&nonce);
            let tag = seal.tag(nonce, shard);
            shard.extend_from_slice(&tag);
        }
        shards
    }

    /// What `stored` is, if it is a true shard of the chunk of `length` sealed bytes that `seal` is of.
    #[must_use]
    pub fn check(&self, seal: &ShardSeal, length: usize, mut stored: Vec<u8>) -> Option<Shard> {
        let payload = self.code.payload(length);
        if length > MAX_SEALED || stored.len() != payload + TRAILER {
            return None;
        }
        let (bytes, tag) = stored.split_last_chunk::<TAG>()?;
        let fields = bytes.last_chunk::<FIELDS>()?;
        let index = fields[6];
        let is_ours = *fields == self.fields(index, length) && usize::from(index) < self.code.shards();
        if !is_ours || !seal.is_true(*fields, bytes, *tag) {
            return None;
        }
        stored.truncate(payload);
        Some(Shard { index, payload: stored })
    }

    /// The `length` sealed bytes that true shards make; `None` where they are too few.
    #[must_use]
    pub fn join(&self, length: usize, shards: Vec<Shard>) -> Option<Vec<u8>> {
        let mut places: Vec<Option<Vec<u8>>> = vec![None; self.code.shards()];
        for Shard { index, payload } in shards {
            *places.get_mut(usize::from(index))? = Some(payload);
        }
        if places[..self.code.data()].iter().any(Option::is_none) {
            self.solomon.as_ref()?.reconstruct_data(&mut places).ok()?;
        }
        let mut sealed = Vec::with_capacity(self.code.payload(length) * self.code.data());
        for place in places.iter().take(self.code.data()) {
            sealed.extend_from_slice(place.as_ref()?);
        }
        sealed.truncate(length);
        Some(sealed)
    }

    fn fields(&self, index: u8, length: usize) -> [u8; FIELDS] {
        let mut fields = [0; FIELDS];
        fields[..4].copy_from_slice(&MAGIC);
        fields[4..8].copy_from_slice(&[self.code.data, self.code.parity, index, 0]);
        fields[8..].copy_from_slice(&u32::try_from(length).expect("a sealed chunk is below 1 MiB").to_le_bytes());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ChunkKey;
    use crate::digest::Sha256;

    fn sealed(length: usize) -> Vec<u8> {
        (0u32..).flat_map(|n| *Sha256::of(&n.to_le_bytes()).as_bytes()).take(length).collect()
    }

    fn seal() -> ShardSeal {
        ShardSeal::of(&ChunkKey::from_bytes([7; 32]))
    }

    fn coder(code: &str) -> Coder {
        Coder::new(code.parse().unwrap())
    }

    #[test]
    fn any_four_of_six_make_the_chunk_and_no_three_do() {
        let (coder, seal) = (coder("4+2"), seal());
        for length in [1, 4, 4112, 100_001, MAX_SEALED] {
            let sealed = sealed(length);
            let shards = coder.split(&seal, &sealed);
            for present in 0u32..64 {
                let some = shards.iter().enumerate().filter(|(index, _)| present >> index & 1 == 1);
                let some = some.map(|(_, shard)| coder.check(&seal, length, shard.clone()).unwrap()).collect();
                let joined = coder.join(length, some);
                assert_eq!(joined.as_ref() == Some(&sealed), present.count_ones() >= 4, "{present:b}");
                assert_eq!(joined.is_some(), present.count_ones() >= 4);
            }
        }
    }

    #[test]
    fn copies_and_other_codes_make_the_chunk() {
        for (code, lost) in [("1+0", 0), ("1+1", 1), ("4+1", 1), ("1+2", 2), ("10+4", 4), ("3+0", 0)] {
            let (coder, seal, sealed) = (coder(code), seal(), sealed(5000));
            let shards = coder.split(&seal, &sealed);
            assert_eq!(shards.len(), coder.code().shards());
            let some = shards.into_iter().skip(lost).map(|shard| coder.check(&seal, 5000, shard).unwrap()).collect();
            assert_eq!(coder.join(5000, some), Some(sealed), "{code}");
        }
    }

    #[test]
    fn what_a_server_could_alter_is_no_shard() {
        let (coder, seal, sealed) = (coder("4+2"), seal(), sealed(5000));
        let shards = coder.split(&seal, &sealed);
        let good = &shards[4];
        assert!(coder.check(&seal, 5000, good.clone()).is_some());
        for at in [0, 700, good.len() - 1].into_iter().chain(good.len() - TRAILER..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(coder.check(&seal, 5000, bad), None, "byte {at}");
        }
        assert_eq!(coder.check(&seal, 4999, good.clone()), None);
        assert_eq!(coder.check(&seal, 5000, good[1..].to_vec()), None);
        assert_eq!(coder.check(&seal, 5000, Vec::new()), None);
        assert_eq!(coder.check(&ShardSeal::of(&ChunkKey::from_bytes([8; 32])), 5000, good.clone()), None);
        assert_eq!(Coder::new("4+3".parse().unwrap()).check(&seal, 5000, good.clone()), None);
    }

    /// Other bytes under one nonce would give the tags' key away: the code's bytes never change under a version.
    #[test]
    fn the_bytes_of_a_version_stay() {
        let shards = coder("4+2").split(&seal(), &sealed(4112));
        let digests: Vec<String> = shards.iter().map(|shard| Sha256::of(shard).to_hex()[..16].to_owned()).collect();
        let want = [
            "3c36eef222dc4bb6",
            "7277943472a6bc6d",
            "957097fbef766e5e",
            "01abc1a78792b705",
            "bd10453b47094b1d",
            "6c4507beb111c3ba",
        ];
        assert_eq!(digests, want);
    }

    #[test]
    fn codes_are_read() {
        assert_eq!("4+2".parse(), Ok(Code::default()));
        assert_eq!("1+0".parse::<Code>().unwrap().to_string(), "1+0");
        for bad in ["", "4", "0+2", "4+", "4-2", "30+3", "255+255"] {
            assert!(bad.parse::<Code>().is_err(), "{bad}");
        }
    }
}
