//! Disks of virtual machines: a socket for each image that is offered so, and a session for each client.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coldpress::Result;
use coldpress::fs::BlockDevice;
use coldpress::serve::vhost_blk::{self, Session};

use super::{Said, Server, tell_ended};
use crate::sockets::{self, Socket};

/// Offers `device` on a socket at `path`.
pub fn listen(path: &Path, name: &str, device: Arc<dyn BlockDevice>, server: &Arc<Server>) -> Result<Socket> {
    let (name, server) = (name.to_owned(), Arc::clone(server));
    sockets::listen_at(path, move |listener| accept(&listener, &name, &device, &server))
}

fn accept(listener: &UnixListener, name: &str, device: &Arc<dyn BlockDevice>, server: &Arc<Server>) {
    loop {
        let session = vhost_blk::wait_for_client(listener).and_then(|()| {
            // It is enrolled before it can ask for anything: nothing that is asked at the end goes unanswered.
            let mut clients = server.clients();
            let session = Session::accept(listener, Arc::clone(device), name, server.threads, Arc::new(Said))?;
            let handle = session.handle();
            Ok((server.enrol(&mut clients, Box::new(move || handle.end())), session))
        });
        let (number, session) = match session {
            Ok((Some(number), session)) => (number, session),
            // Its monitor is hung up on.
            Ok((None, session)) => {
                session.handle().end();
                tell_ended(session.wait());
                continue;
            }
            Err(error) => {
                server.refuse(&mut server.clients(), &error.to_string());
                // What is short, threads or descriptors, may be there again.
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        };
        let work = {
            let server = Arc::clone(server);
            move || {
                tell_ended(session.wait());
                server.leave(number);
            }
        };
        match std::thread::Builder::new().name("client".to_owned()).spawn(work) {
            // Two machines that write to one disk ruin its file system: the next waits.
            Ok(client) if device.writable().is_some() => _ = client.join(),
            Ok(_) => {}
            Err(error) => {
                server.leave(number);
                server.refuse(&mut server.clients(), &format!("no thread for it: {error}"));
            }
        }
    }
}
