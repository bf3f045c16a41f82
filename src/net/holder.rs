//! The process that listens on a port of this machine, as far as the kernel shows it to this user.

use std::fmt;
use std::fs;
use std::path::Path;

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its name; may be empty.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name is the other program's own choice, and goes to a terminal.
        let name: String = self.name.chars().filter(|char| !char.is_control()).collect();
        write!(f, "{name} (process {})", self.process)
    }
}

/// The process that listens on this TCP port. `None` also where this user may not know: another user's processes show
/// their sockets to root alone.
pub fn of_port(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let wanted: Vec<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    if wanted.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut holders = processes.filter(|process: &u32| has_socket(*process, &wanted));
    let process = holders.next()?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(Holder { process, name: name.trim().to_owned() })
}

/// Links that descriptors of sockets have which listen on the port, by a table of the kernel (proc_net_tcp.txt).
fn listening(table: &str, port: u16) -> impl Iterator<Item = String> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && fields.nth(1)? == LISTEN;
        let inode = fields.nth(5)?;
        is_it.then(|| format!("socket:[{inode}]"))
    })
}

fn has_socket(process: u32, wanted: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let target = |path: &Path| fs::read_link(path).ok()?.into_os_string().into_string().ok();
    descriptors.flatten().any(|entry| target(&entry.path()).is_some_and(|target| wanted.contains(&target)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(of_port(port).map(|holder| holder.process), Some(std::process::id()));
        drop(listener);
        assert_eq!(of_port(port), None);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0 100\n   \
            1: 0100007F:01BB 0100007F:9000 01 00000000:00000000 00:00000000 00000000     0        0 1235 1 0 100\n   \
            2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1236 1 0 100\n  \
            3: broken\n";
        assert_eq!(listening(table, 443).collect::<Vec<_>>(), ["socket:[1234]"]);
    }

    #[test]
    fn a_name_is_shown_without_what_would_move_the_cursor() {
        let holder = Holder { process: 7, name: "ng\u{1b}[2Jinx".into() };
        assert_eq!(holder.to_string(), "ng[2Jinx (process 7)");
    }
}
