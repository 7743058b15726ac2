//! A cluster of three etcd members on loopback. A test can kill, stop and restart each member.

use crate::certificates::Issued;
use slm_mesh::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings, EtcdTls, EtcdUser};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The length of a lease in these tests, in seconds. Etcd allows no shorter lease.
pub const LEASE: u64 = 2;
const MEMBERS: usize = 3;

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// The certificates of a cluster that uses TLS.
pub struct Security {
    pub authority: PathBuf,
    pub server: Issued,
    /// The certificate with which `etcdctl` connects to the cluster.
    pub client: Issued,
}

pub struct Cluster {
    dir: PathBuf,
    security: Option<Security>,
    /// More arguments for each member's command line.
    options: Vec<&'static str>,
    members: Vec<Member>,
}

/// Whether etcd is installed. If not, prints that these tests are skipped.
pub fn is_installed() -> bool {
    let answers = |program: &str, word: &str| {
        let status = Command::new(program).arg(word).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let found = answers("etcd", "--version") && answers("etcdctl", "version");
    if !found {
        eprintln!("skipped: the tests of etcd: etcd is not installed (Debian: etcd-server, etcd-client)");
    }
    found
}

/// The directory for the data of all members, in memory if there is room. On a busy disk, etcd can be so slow that a
/// hub loses the short lease of these tests.
fn folder_for_etcd() -> PathBuf {
    const ROOM: u64 = 2 << 30;
    let memory = PathBuf::from("/dev/shm");
    let free = rustix::fs::statvfs(&memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    if free >= ROOM { memory } else { std::env::temp_dir() }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Cluster {
    /// Starts all members, and waits until they have elected a leader.
    pub fn start() -> Cluster {
        Cluster::start_with(None, &[])
    }

    /// Starts a cluster as `start` does, but with TLS or with more arguments for the members.
    pub fn start_with(security: Option<Security>, options: &[&'static str]) -> Cluster {
        Cluster::start_at(&folder_for_etcd(), security, options)
    }

    /// Starts a cluster as `start` does, but the members keep their data in this directory.
    #[allow(dead_code)] // the benchmark of several hubs needs it
    pub fn start_in(dir: &Path) -> Cluster {
        Cluster::start_at(dir, None, &[])
    }

    fn start_at(dir: &Path, security: Option<Security>, options: &[&'static str]) -> Cluster {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let dir = dir.join(format!("slm-mesh-etcd-{}-{run}", std::process::id()));
        // All listeners stay open until each has a port. Otherwise, two of them could get the same port.
        let free: Vec<TcpListener> = (0..2 * MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = free.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(free);
        let members = ports.chunks(2).map(|pair| Member { client: pair[0], peer: pair[1], process: None }).collect();
        let mut cluster = Cluster { dir, security, options: options.to_vec(), members };
        (0..MEMBERS).for_each(|n| cluster.start_member(n));
        cluster.wait_until_healthy();
        cluster
    }

    pub fn start_member(&mut self, n: usize) {
        let all: Vec<String> = self.members.iter().enumerate().map(|(n, m)| format!("m{n}={}", url(m.peer))).collect();
        let member = &mut self.members[n];
        let mut client = url(member.client);
        let peer = url(member.peer);
        let mut etcd = Command::new("etcd");
        if let Some(security) = &self.security {
            client = client.replace("http:", "https:");
            etcd.arg("--cert-file").arg(&security.server.certificate).arg("--key-file").arg(&security.server.key);
            etcd.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&security.authority);
        }
        etcd.args(["--name", &format!("m{n}"), "--initial-cluster", &all.join(",")]);
        etcd.arg("--data-dir").arg(self.dir.join(n.to_string()));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]).args(&self.options);
        member.process = Some(etcd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Kills a member, deletes its data, and adds a new member to the cluster in its place.
    pub fn replace_member(&mut self, n: usize) {
        self.kill(n);
        std::fs::remove_dir_all(self.dir.join(n.to_string())).unwrap();
        self.wait_until_healthy();
        let name = format!("m{n}");
        let list = self.control(&["member", "list"]).unwrap();
        let lost = list.lines().find(|line| line.split(", ").nth(2) == Some(&name)).unwrap();
        self.control(&["member", "remove", lost.split(", ").next().unwrap()]).unwrap();
        self.control(&["member", "add", &name, "--peer-urls", &url(self.members[n].peer)]).unwrap();
        self.options.extend(["--initial-cluster-state", "existing"]);
        self.start_member(n);
        self.wait_until_healthy();
    }

    pub fn wait_until_healthy(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.control(&["endpoint", "health"]).is_err() {
            assert!(Instant::now() < until, "etcd does not become healthy");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs `etcdctl` with the addresses of all running members.
    pub fn control(&self, words: &[&str]) -> Result<String, String> {
        let running = self.members.iter().filter(|member| member.process.is_some());
        let mut endpoints: Vec<String> = running.map(|member| url(member.client)).collect();
        let mut command = Command::new("etcdctl");
        if let Some(security) = &self.security {
            endpoints.iter_mut().for_each(|endpoint| *endpoint = endpoint.replace("http:", "https:"));
            command.arg("--cacert").arg(&security.authority);
            command.arg("--cert").arg(&security.client.certificate).arg("--key").arg(&security.client.key);
        }
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(",")).args(words);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        if out.status.success() { Ok(text) } else { Err(text) }
    }

    /// Ends the lease of a key, so that etcd deletes the key.
    pub fn revoke_lease_of(&self, key: &str) {
        let found = self.control(&["get", key, "--write-out=json"]).unwrap();
        let lease: u64 = found.split("\"lease\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();
        self.control(&["lease", "revoke", &format!("{lease:x}")]).unwrap();
    }

    pub fn kill(&mut self, n: usize) {
        let mut process = self.members[n].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Stops a member's process with a signal, or lets it continue. While it is stopped, its port still accepts
    /// connections.
    pub fn freeze(&self, n: usize, frozen: bool) {
        let pid = self.members[n].process.as_ref().unwrap().id().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert!(TcpStream::connect(("127.0.0.1", self.members[n].client)).is_ok());
    }

    /// The index of the member that leads the etcd cluster. This leader has nothing to do with the hub that leads the
    /// mesh.
    pub fn etcd_leader(&self) -> usize {
        let table = self.control(&["endpoint", "status", "--write-out=simple"]).unwrap();
        let line = table.lines().find(|line| line.split(", ").nth(4) == Some("true")).unwrap();
        self.members.iter().position(|member| line.starts_with(&url(member.client))).unwrap()
    }

    /// The scheme of the URL in `SLM_MESH_STORE`: `etcds` with TLS, `etcd` without.
    pub fn scheme(&self) -> &'static str {
        if self.security.is_some() { "etcds" } else { "etcd" }
    }

    /// The addresses of all members, as host and port.
    pub fn hosts(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect()
    }

    /// Connects to the log of the mesh with this name, as a hub does.
    pub fn log(&self, name: &str, user: Option<(&str, &str)>) -> EtcdLog {
        self.client(name, "etcd", None, user).unwrap()
    }

    /// Connects over TLS to the log of the mesh with this name.
    pub fn secure_log(&self, name: &str, tls: Option<EtcdTls>, user: Option<(&str, &str)>) -> Result<EtcdLog, String> {
        self.client(name, "etcds", tls, user)
    }

    /// Connects to the log of the mesh with this name. The lease is longer than any test, so it can't end by accident.
    pub fn log_with_long_lease(&self, name: &str) -> EtcdLog {
        let address = EtcdAddress::parse(&format!("etcd://{}/{name}", self.hosts().join(","))).unwrap();
        EtcdLog::new(EtcdSettings { address, tls: None, user: None, lease_seconds: 60 }).unwrap()
    }

    fn client(
        &self,
        name: &str,
        scheme: &str,
        tls: Option<EtcdTls>,
        user: Option<(&str, &str)>,
    ) -> Result<EtcdLog, String> {
        let address = EtcdAddress::parse(&format!("{scheme}://{}/{name}", self.hosts().join(","))).unwrap();
        let user = user.map(|(name, password)| EtcdUser { name: name.into(), password: password.into() });
        EtcdLog::new(EtcdSettings { address, tls, user, lease_seconds: LEASE })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // SIGKILL also ends a process that is stopped.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
