//! Whose connection is it? Both ends are on this machine, so the kernel can be asked. A proxy must
//! tell the job's connections from those of the readers, who have to see through every fault, and
//! those of one process of the job from those of another.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

/// The inode of the socket that is bound to `near` and connected to `far`: what a process's
/// descriptors are known by.
pub(crate) fn inode(near: SocketAddr, far: SocketAddr) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    find(&table, near, far)
}

fn find(table: &str, near: SocketAddr, far: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let is = |word: Option<&str>, address| {
            word.and_then(address_of)
                .is_some_and(|found| SocketAddr::V4(found) == address)
        };
        let _number = words.next();
        (is(words.next(), near) && is(words.next(), far))
            .then(|| words.nth(6)?.parse().ok())
            .flatten()
    })
}

/// `0100007F:1F90`: the address's bytes as a number of this machine, then the port.
fn address_of(word: &str) -> Option<SocketAddrV4> {
    let (address, port) = word.split_once(':')?;
    let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
    Some(SocketAddrV4::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Whether a process holds this socket.
pub(crate) fn holds(pid: u32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_leads_to_the_process_that_holds_its_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (_server, peer) = listener.accept().expect("a caller");
        assert_eq!(peer, client.local_addr().expect("an address"));
        let inode =
            inode(peer, listener.local_addr().expect("an address")).expect("the kernel knows it");
        assert!(holds(std::process::id(), inode));
        assert!(!holds(1, inode), "it is ours and not the first process's");
        assert!(!holds(std::process::id(), u64::MAX));
    }
}
