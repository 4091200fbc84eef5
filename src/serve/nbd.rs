//! NBD, the network block device protocol, as its specification has it: fixed newstyle handshake, simple replies.
//!
//! Here is what goes before the first request; `transmission` has the rest. A device that can be written to is offered so. A client
//! that breaks the protocol ends its own connection.

mod patience;
mod transmission;
mod workers;

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use self::patience::Patient;
use super::Watch;
use super::buffers::Buffers;
use crate::fs::BlockDevice;

const SERVER_MAGIC: u64 = 0x4E42_444D_4147_4943; // NBDMAGIC
const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054; // IHAVEOPT
const OPTION_REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
/// Has flags, flush is known, several connections see the same.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 8;
const READ_ONLY: u16 = 1 << 1;
/// Writes that are to be on the disk before their answer, trim and zeros are known.
const WRITABLE_FLAGS: u16 = 1 << 3 | 1 << 5 | 1 << 6;

/// Longest data of an option; a name has at most 4,096 bytes.
const MAX_OPTION: u32 = 8 << 10;
/// Options before a client must have chosen.
const MAX_OPTIONS: u32 = 1_000;
/// Longest read or write, as the specification says that clients may expect.
const MAX_DATA: u32 = 32 << 20;
const BLOCK: u32 = 4096;

mod option {
    pub(super) const EXPORT_NAME: u32 = 1;
    pub(super) const ABORT: u32 = 2;
    pub(super) const LIST: u32 = 3;
    pub(super) const INFO: u32 = 6;
    pub(super) const GO: u32 = 7;
}

mod reply {
    pub(super) const ACK: u32 = 1;
    pub(super) const SERVER: u32 = 2;
    pub(super) const INFO: u32 = 3;
    pub(super) const UNSUPPORTED: u32 = 1 << 31 | 1;
    pub(super) const INVALID: u32 = 1 << 31 | 3;
    pub(super) const UNKNOWN: u32 = 1 << 31 | 6;
}

mod info {
    pub(super) const EXPORT: u16 = 0;
    pub(super) const BLOCK_SIZE: u16 = 3;
}

/// Devices by the names under which clients ask for them; the empty name is the first device's.
#[derive(Default, Clone)]
pub struct Exports {
    devices: BTreeMap<Vec<u8>, Arc<dyn BlockDevice>>,
    first: Option<Arc<dyn BlockDevice>>,
}

impl Exports {
    /// Offers `device` as `name`; `false` where that name is taken.
    pub fn add(&mut self, name: &str, device: Arc<dyn BlockDevice>) -> bool {
        self.first.get_or_insert_with(|| Arc::clone(&device));
        self.devices.insert(name.as_bytes().to_vec(), device).is_none()
    }

    fn find(&self, name: &[u8]) -> Option<&Arc<dyn BlockDevice>> {
        self.devices.get(name).or(self.first.as_ref().filter(|_| name.is_empty()))
    }
}

fn flags_of(device: &dyn BlockDevice) -> u16 {
    EXPORT_FLAGS | if device.writable().is_some() { WRITABLE_FLAGS } else { READ_ONLY }
}

/// What clients are served from.
pub struct Service<'a> {
    /// The devices.
    pub exports: &'a Exports,
    /// Memory of all clients together.
    pub buffers: &'a Buffers,
    /// Misses of a client that may be under way.
    pub threads: usize,
    /// Told of what fails.
    pub watch: &'a dyn Watch,
}

/// Serves one client over `from` and `to`, until it leaves. The streams are to time out after a second or so without a byte; then it is
/// seen whether the client takes too long. `hang_up` ends the connection in both directions.
///
/// # Errors
/// Those of the connection; `InvalidData` where the client breaks the protocol; `TimedOut` where it takes too long to choose an export, or
/// holds memory for too long that others wait for.
pub fn serve(
    from: impl Read,
    to: impl Write + Send,
    hang_up: &(dyn Fn() + Sync),
    service: &Service<'_>,
) -> io::Result<()> {
    let account = service.buffers.account();
    let from = BufReader::new(Patient::new(from, &account));
    let mut connection = Connection { from, to: Patient::new(to, &account) };
    let Some(device) = connection.handshake(service.exports)? else { return Ok(()) };
    let Connection { mut from, mut to } = connection;
    from.get_mut().end();
    to.end();
    let Service { threads, watch, .. } = *service;
    transmission::run(from, to, &**device, &transmission::Client { threads, watch, account: &account, hang_up })
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD protocol error: {what}"))
}

struct Connection<R: Read, W: Write> {
    from: BufReader<R>,
    to: W,
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u32_of(from: &mut impl Read) -> io::Result<u32> {
    array(from).map(u32::from_be_bytes)
}

impl<R: Read, W: Write> Connection<R, W> {
    /// The device that the client chose; `None` where it left.
    fn handshake<'e>(&mut self, exports: &'e Exports) -> io::Result<Option<&'e Arc<dyn BlockDevice>>> {
        let hello = [&SERVER_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes()].concat();
        self.to.write_all(&hello)?;
        self.to.write_all(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes())?;
        self.to.flush()?;
        let flags = u32_of(&mut self.from)?;
        if flags & u32::from(FIXED_NEWSTYLE) == 0 || flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(broken("unknown client flags"));
        }
        let no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        for _ in 0..MAX_OPTIONS {
            if array(&mut self.from).map(u64::from_be_bytes)? != OPTION_MAGIC {
                return Err(broken("an option without the magic number"));
            }
            let (option, length) = (u32_of(&mut self.from)?, u32_of(&mut self.from)?);
            if length > MAX_OPTION {
                return Err(broken("an option that is too long"));
            }
            let mut data = vec![0; length as usize];
            self.from.read_exact(&mut data)?;
            match option {
                option::EXPORT_NAME => {
                    // There is no way to say no but to hang up.
                    let device = exports.find(&data).ok_or_else(|| broken("no such export"))?;
                    self.to.write_all(&device.size().to_be_bytes())?;
                    self.to.write_all(&flags_of(&**device).to_be_bytes())?;
                    if !no_zeroes {
                        self.to.write_all(&[0; 124])?;
                    }
                    self.to.flush()?;
                    return Ok(Some(device));
                }
                option::ABORT => {
                    self.reply(option, reply::ACK, &[])?;
                    return Ok(None);
                }
                option::LIST if data.is_empty() => {
                    for name in exports.devices.keys() {
                        let length = u32::try_from(name.len()).expect("names are short");
                        self.reply(option, reply::SERVER, &[&length.to_be_bytes()[..], name].concat())?;
                    }
                    self.reply(option, reply::ACK, &[])?;
                }
                option::INFO | option::GO => match asked(&data) {
                    None => self.reply(option, reply::INVALID, b"expected an export name and information requests")?,
                    Some(name) => match exports.find(name) {
                        None => self.reply(option, reply::UNKNOWN, b"no such export")?,
                        Some(device) => {
                            self.describe(option, &**device)?;
                            if option == option::GO {
                                return Ok(Some(device));
                            }
                        }
                    },
                },
                option::LIST => self.reply(option, reply::INVALID, b"a list request has no data")?,
                _ => self.reply(option, reply::UNSUPPORTED, &[])?,
            }
        }
        Err(broken("too many options"))
    }

    fn describe(&mut self, option: u32, device: &dyn BlockDevice) -> io::Result<()> {
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend_from_slice(&device.size().to_be_bytes());
        export.extend_from_slice(&flags_of(device).to_be_bytes());
        self.reply(option, reply::INFO, &export)?;
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, BLOCK, MAX_DATA] {
            sizes.extend_from_slice(&size.to_be_bytes());
        }
        self.reply(option, reply::INFO, &sizes)?;
        self.reply(option, reply::ACK, &[])
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut out = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        let length = u32::try_from(data.len()).expect("replies are short");
        for number in [option, kind, length] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(data);
        self.to.write_all(&out)?;
        self.to.flush()
    }
}

/// The export's name in the data of INFO and GO, if they are well formed.
fn asked(data: &[u8]) -> Option<&[u8]> {
    let (length, rest) = data.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (count, rest) = rest.split_first_chunk()?;
    (rest.len() == 2 * usize::from(u16::from_be_bytes(*count))).then_some(name)
}
