//! Encoding and decoding of one inode of 256 bytes (kernel documentation, "Index Nodes").

use super::csum;
use super::spec::{EXTRA_ISIZE, INODE, InodeNumber, get16, get32, hi16, hi32, lo16, lo32, put16, put32};
use crate::fs::tree::{DeviceNumber, Timestamp};

/// The offset of the xattrs in the inode, in bytes.
pub(super) const XATTRS_AT: usize = 128 + EXTRA_ISIZE as usize;

/// The fields of an inode on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawInode {
    /// File type and permissions.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) links: u16,
    /// Allocated space, in sectors of 512 bytes.
    pub(super) sectors: u64,
    pub(super) flags: u32,
    /// The root of the extent tree, the device number, or a short symlink target.
    pub(super) map: [u8; 60],
    /// The address of the xattr block, or 0.
    pub(super) xattr_block: u32,
    /// The xattrs in the inode, with their magic; empty where it has none.
    pub(super) xattrs: Vec<u8>,
}

/// The fields of an unused inode.
impl Default for RawInode {
    fn default() -> Self {
        Self {
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            links: 0,
            sectors: 0,
            flags: 0,
            map: [0; 60],
            xattr_block: 0,
            xattrs: Vec::new(),
        }
    }
}

impl RawInode {
    /// Encodes the inode `ino`. All four times are the modification time: an image has no other.
    pub(super) fn encode(&self, ino: InodeNumber) -> [u8; INODE] {
        let mut out = [0; INODE];
        let (seconds, extra) = encode_time(self.mtime);
        put16(&mut out, 0x00, self.mode);
        put16(&mut out, 0x02, lo16(self.uid));
        put32(&mut out, 0x04, lo32(self.size));
        put32(&mut out, 0x08, seconds);
        put32(&mut out, 0x0C, seconds);
        put32(&mut out, 0x10, seconds);
        put16(&mut out, 0x18, lo16(self.gid));
        put16(&mut out, 0x1A, self.links);
        put32(&mut out, 0x1C, lo32(self.sectors));
        put32(&mut out, 0x20, self.flags);
        out[0x28..0x64].copy_from_slice(&self.map);
        put32(&mut out, 0x68, self.xattr_block);
        put32(&mut out, 0x6C, hi32(self.size));
        put16(&mut out, 0x74, lo16(hi32(self.sectors)));
        put16(&mut out, 0x78, hi16(self.uid));
        put16(&mut out, 0x7A, hi16(self.gid));
        put16(&mut out, 0x80, EXTRA_ISIZE);
        put32(&mut out, 0x84, extra);
        put32(&mut out, 0x88, extra);
        put32(&mut out, 0x8C, extra);
        put32(&mut out, 0x90, seconds);
        put32(&mut out, 0x94, extra);
        out[XATTRS_AT..XATTRS_AT + self.xattrs.len()].copy_from_slice(&self.xattrs);
        let sum = csum::inode(ino, &out);
        put16(&mut out, 0x7C, lo16(sum));
        put16(&mut out, 0x82, hi16(sum));
        out
    }

    /// Decodes the inode `ino`; `None` where the checksum is wrong.
    pub(super) fn decode(ino: InodeNumber, bytes: &[u8; INODE]) -> Option<Self> {
        let wide = |lo: usize, hi: usize| u32::from(get16(bytes, lo)) | u32::from(get16(bytes, hi)) << 16;
        let long = |lo: usize, hi: u32| u64::from(get32(bytes, lo)) | u64::from(hi) << 32;
        let mut summed = *bytes;
        put16(&mut summed, 0x7C, 0);
        put16(&mut summed, 0x82, 0);
        if !csum::matches(wide(0x7C, 0x82), csum::inode(ino, &summed)) || get16(bytes, 0x80) != EXTRA_ISIZE {
            return None;
        }
        let mut map = [0; 60];
        map.copy_from_slice(&bytes[0x28..0x64]);
        Some(Self {
            mode: get16(bytes, 0x00),
            uid: wide(0x02, 0x78),
            gid: wide(0x18, 0x7A),
            size: long(0x04, get32(bytes, 0x6C)),
            mtime: decode_time(get32(bytes, 0x10), get32(bytes, 0x88)),
            links: get16(bytes, 0x1A),
            sectors: long(0x1C, u32::from(get16(bytes, 0x74))),
            flags: get32(bytes, 0x20),
            map,
            xattr_block: get32(bytes, 0x68),
            xattrs: bytes[XATTRS_AT..].to_vec(),
        })
    }
}

/// Encodes the low 32 bits of the seconds, and the nanoseconds with the two bits that extend the seconds past 2038.
fn encode_time(time: Timestamp) -> (u32, u32) {
    let [a, b, c, d, ..] = time.secs.to_le_bytes();
    let low = i32::from_le_bytes([a, b, c, d]);
    let epoch = (time.secs - i64::from(low)) >> 32;
    let epoch = u32::try_from(epoch & 3).expect("two bits");
    (u32::from_le_bytes([a, b, c, d]), time.nanos << 2 | epoch)
}

fn decode_time(seconds: u32, extra: u32) -> Timestamp {
    let low = i64::from(i32::from_le_bytes(seconds.to_le_bytes()));
    Timestamp { secs: low + (i64::from(extra & 3) << 32), nanos: extra >> 2 }
}

/// Encodes a device number as the inode's map, in the old form where both numbers are below 256, as the kernel does.
pub(super) fn encode_device(device: DeviceNumber) -> [u8; 60] {
    let mut map = [0; 60];
    let DeviceNumber { major, minor } = device;
    if major < 256 && minor < 256 {
        put32(&mut map, 0, major << 8 | minor);
    } else {
        put32(&mut map, 4, (minor & 0xFF) | major << 8 | (minor & !0xFF) << 12);
    }
    map
}

/// Decodes the device number in an inode's map.
pub(super) fn decode_device(map: &[u8; 60]) -> DeviceNumber {
    match (get32(map, 0), get32(map, 4)) {
        (0, new) => DeviceNumber { major: (new >> 8) & 0xFFF, minor: (new & 0xFF) | ((new >> 12) & 0xF_FF00) },
        (old, _) => DeviceNumber { major: (old >> 8) & 0xFF, minor: old & 0xFF },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_at_the_limits() {
        for (secs, nanos) in
            [(-0x8000_0000, 0), (-1, 999_999_999), (0, 1), (0x7FFF_FFFF, 5), (0x8000_0000, 6), (0x3_7FFF_FFFF, 7)]
        {
            let time = Timestamp { secs, nanos };
            let (seconds, extra) = encode_time(time);
            assert_eq!(decode_time(seconds, extra), time);
        }
    }

    #[test]
    fn numbers_past_16_and_32_bits_survive() {
        let raw = RawInode {
            uid: 0x0003_0005,
            gid: 0x0007_0009,
            size: 0x5_0000_0007,
            sectors: 0x3_0000_0009,
            xattrs: vec![1; INODE - XATTRS_AT],
            ..RawInode::default()
        };
        assert_eq!(RawInode::decode(InodeNumber(12), &raw.encode(InodeNumber(12))), Some(raw));
    }

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(0, 1), (1, 3), (255, 255), (259, 70_000), (4095, 1_048_575), (256, 0), (1, 256)] {
            let device = DeviceNumber { major, minor };
            assert_eq!(decode_device(&encode_device(device)), device);
        }
    }
}
