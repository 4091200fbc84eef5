//! Requests of a virtio block device, as section 5.2 of the virtio specification has them.
//!
//! A request is a chain of a guest's buffers: what the device reads (header, data to write), then what it writes (data, one byte of
//! status). Whatever a chain says, nothing outside the guest's memory and the device is touched, and what is allocated does not
//! grow with what is asked. Buffers may be cut anywhere: they are taken as bytes, not as structures.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::Arc;

use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use crate::Result;
use crate::fs::{BlockDevice, WritableDevice};
use crate::serve::Watch;

pub(super) const SECTOR: u64 = 512;
/// Most buffers of data in a request. Rings of 128 have room for it even where a guest makes no indirect tables.
pub(super) const MAX_SEGMENTS: u32 = 126;
/// A request is read and written in pieces of this size.
const PIECE: usize = 1 << 20;
/// Longest read that the ring's thread answers itself, so that others on the ring need not wait for its copying.
const MAX_AT_HAND: usize = 256 << 10;
/// Ranges of a discard, and sectors of each.
pub(super) const MAX_RANGES: u32 = 16;
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 22;
const RANGE: usize = 16;
const ID: usize = 20;

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// The last byte of each answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Where the data of a read may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Memory only.
    Hand,
    /// Wherever it is.
    Anywhere,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is answered; so many bytes were written to the guest.
    Given(u32),
    /// It needs more than what is at hand; nothing was told to the guest.
    Later,
}

/// A chain that is no request: it has no header, or no place for a status.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub(super) &'static str);

/// A device, as a guest's requests see it.
#[derive(Clone)]
pub struct Disk {
    pub(super) device: Arc<dyn BlockDevice>,
    id: [u8; ID],
    watch: Arc<dyn Watch>,
}

struct Header {
    kind: u32,
    sector: u64,
}

impl Disk {
    /// `device`, whose serial number in the guest is what `name` begins with.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, name: &str, watch: Arc<dyn Watch>) -> Self {
        let mut id = [0; ID];
        id.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Self { device, id, watch }
    }

    /// Answers the request in `chain`; `buf` is room that is used again.
    ///
    /// # Errors
    /// Where the chain is no request, so that no status can be given either.
    pub fn answer<M>(
        &self,
        chain: &DescriptorChain<M>,
        reach: Reach,
        buf: &mut Vec<u8>,
    ) -> std::result::Result<Answer, Broken>
    where
        M: Deref<Target = GuestMemoryMmap> + Clone,
    {
        // Header and status can have buffers of their own; a loop ends here as well.
        if chain.clone().count() > MAX_SEGMENTS as usize + 2 {
            return Err(Broken("a request with too many buffers"));
        }
        let outside = |_| Broken("a buffer outside the guest's memory");
        let mut reader = Reader::new(chain.memory(), chain.clone()).map_err(outside)?;
        let mut writer = Writer::new(chain.memory(), chain.clone()).map_err(outside)?;
        let header = header(&mut reader).map_err(|_| Broken("a request without a header"))?;
        let room =
            writer.available_bytes().checked_sub(1).ok_or(Broken("a request without a buffer for its status"))?;
        let mut status = writer.split_at(room).map_err(|_| Broken("a request without a buffer for its status"))?;
        let done = match header.kind {
            kind::IN if reach == Reach::Hand => match self.read_at_hand(&header, &mut writer, buf) {
                None => return Ok(Answer::Later),
                Some(done) => done,
            },
            kind::IN => self.read(&header, &mut writer, buf),
            kind::GET_ID => self.identify(&mut writer),
            // What was written is what everyone reads: there is nothing that a flush could add.
            kind::FLUSH => Status::Ok,
            kind::OUT | kind::DISCARD | kind::WRITE_ZEROES => match self.device.writable() {
                None => Status::IoError,
                Some(_) if reach == Reach::Hand => return Ok(Answer::Later),
                Some(device) if header.kind == kind::OUT => self.write(device, &header, &mut reader, buf),
                Some(device) => self.discard(device, header.kind, &mut reader),
            },
            _ => Status::Unsupported,
        };
        status.write_all(&[done as u8]).map_err(|_| Broken("the status cannot be written"))?;
        // A chain has less than 2^32 bytes, or it would have been cut.
        Ok(Answer::Given(u32::try_from(writer.bytes_written() + 1).unwrap_or(u32::MAX)))
    }

    /// The byte that `sector` begins at, where `length` bytes from there on are whole sectors of the device.
    fn offset(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        (length.is_multiple_of(SECTOR) && end <= self.device.size()).then_some(offset)
    }

    /// `None` where it is not at hand.
    fn read_at_hand(&self, header: &Header, to: &mut Writer<'_>, buf: &mut Vec<u8>) -> Option<Status> {
        let length = to.available_bytes();
        let Some(offset) = self.offset(header.sector, length as u64) else { return Some(Status::IoError) };
        if length > MAX_AT_HAND {
            return None;
        }
        let buf = room(buf, length);
        if !self.device.read_at_hand(offset, buf) {
            return None;
        }
        Some(to.write_all(buf).map_or(Status::IoError, |()| Status::Ok))
    }

    fn read(&self, header: &Header, to: &mut Writer<'_>, buf: &mut Vec<u8>) -> Status {
        let Some(mut offset) = self.offset(header.sector, to.available_bytes() as u64) else { return Status::IoError };
        while to.available_bytes() > 0 {
            let buf = room(buf, to.available_bytes().min(PIECE));
            let done = self.told(self.device.read_at(offset, buf));
            if done != Status::Ok || to.write_all(buf).is_err() {
                return Status::IoError;
            }
            offset += buf.len() as u64;
        }
        Status::Ok
    }

    fn write(&self, device: &dyn WritableDevice, header: &Header, from: &mut Reader<'_>, buf: &mut Vec<u8>) -> Status {
        let Some(mut offset) = self.offset(header.sector, from.available_bytes() as u64) else {
            return Status::IoError;
        };
        while from.available_bytes() > 0 {
            let buf = room(buf, from.available_bytes().min(PIECE));
            if from.read_exact(buf).is_err() || self.told(device.write_at(offset, buf)) != Status::Ok {
                return Status::IoError;
            }
            offset += buf.len() as u64;
        }
        Status::Ok
    }

    /// Zeros ranges: to the guest a discard leaves anything behind, here it leaves zeros.
    fn discard(&self, device: &dyn WritableDevice, kind: u32, from: &mut Reader<'_>) -> Status {
        let ranges = from.available_bytes() / RANGE;
        if ranges == 0 || ranges > MAX_RANGES as usize || !from.available_bytes().is_multiple_of(RANGE) {
            return Status::IoError;
        }
        for _ in 0..ranges {
            let Ok((sector, sectors, flags)) = range(from) else { return Status::IoError };
            // The one flag that there is belongs to zeroing, and allows what is done anyway.
            if flags > u32::from(kind == kind::WRITE_ZEROES) {
                return Status::Unsupported;
            }
            let length = u64::from(sectors) * SECTOR;
            let Some(offset) = self.offset(sector, length).filter(|_| sectors <= MAX_RANGE_SECTORS) else {
                return Status::IoError;
            };
            if self.told(device.discard(offset, length)) != Status::Ok {
                return Status::IoError;
            }
        }
        Status::Ok
    }

    fn identify(&self, to: &mut Writer<'_>) -> Status {
        let length = to.available_bytes().min(ID);
        to.write_all(&self.id[..length]).map_or(Status::IoError, |()| Status::Ok)
    }

    fn told(&self, done: Result<()>) -> Status {
        match done {
            Ok(()) => Status::Ok,
            Err(error) => {
                self.watch.failed(&error);
                Status::IoError
            }
        }
    }
}

/// As much of `buf` as is wanted; it grows and never shrinks, so that nothing is zeroed twice.
fn room(buf: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buf.len() < length {
        buf.resize(length, 0);
    }
    &mut buf[..length]
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn header(from: &mut impl Read) -> io::Result<Header> {
    let kind = array(from).map(u32::from_le_bytes)?;
    let _priority = array::<4>(from)?;
    Ok(Header { kind, sector: array(from).map(u64::from_le_bytes)? })
}

/// First sector, sectors, flags.
fn range(from: &mut impl Read) -> io::Result<(u64, u32, u32)> {
    let sector = array(from).map(u64::from_le_bytes)?;
    Ok((sector, array(from).map(u32::from_le_bytes)?, array(from).map(u32::from_le_bytes)?))
}
