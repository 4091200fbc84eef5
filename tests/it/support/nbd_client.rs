//! A client of NBD for what the clients of others do not do, and for measurements.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection that has chosen its export.
pub struct Client(pub UnixStream);

impl Client {
    /// Of the first export at `socket`, once it is there.
    pub fn wait_for(socket: &Path) -> Self {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Self::greet(stream, b""),
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{}: {error}", socket.display()),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn ask_only(&mut self, offset: u64, length: u64) {
        self.ask(0, 0, offset, length);
    }

    pub fn read(&mut self, offset: u64, length: u64) -> Vec<u8> {
        self.ask_only(offset, length);
        self.answer(|_| length).1.unwrap()
    }

    /// Chooses `export`.
    pub fn greet(mut stream: UnixStream, export: &[u8]) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream
            .write_all(
                &[b"IHAVEOPT", &1u32.to_be_bytes()[..], &u32::try_from(export.len()).unwrap().to_be_bytes(), export]
                    .concat(),
            )
            .unwrap();
        let mut chosen = [0; 10];
        stream.read_exact(&mut chosen).unwrap();
        Self(stream)
    }

    pub fn ask(&mut self, kind: u16, cookie: u64, offset: u64, length: u64) {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend_from_slice(&[0, 0]);
        request.extend_from_slice(&kind.to_be_bytes());
        request.extend_from_slice(&cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        self.0.write_all(&request).unwrap();
    }

    /// An answer's cookie, and its data or its error.
    pub fn answer(&mut self, length_of: impl Fn(u64) -> u64) -> (u64, Result<Vec<u8>, u32>) {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
        if error != 0 {
            return (cookie, Err(error));
        }
        let mut data = vec![0; usize::try_from(length_of(cookie)).unwrap()];
        self.0.read_exact(&mut data).unwrap();
        (cookie, Ok(data))
    }
}
