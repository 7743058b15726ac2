//! The definitions of all settings: names, ranges, defaults and help texts.

use crate::base::error::{Error, ErrorKind};
use crate::base::limits::DAY_MS;
use crate::known_agents;

/// The values that a setting accepts.
#[derive(Debug, Clone, Copy)]
pub enum SettingRange {
    /// A whole number between these two numbers, inclusive.
    Int(i64, i64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// Any number of these words, separated by commas.
    Several(fn() -> Vec<&'static str>),
    /// One of these words, or a command that begins with the absolute path of a program.
    WordsOrCommand(&'static [&'static str]),
    /// Any text of at most this many bytes.
    Text(usize),
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The name of the environment variable, which is also the setting's name in the file.
    pub name: &'static str,
    /// The values that the setting accepts.
    pub range: SettingRange,
    /// The value that is used if the setting is not set.
    pub default: &'static str,
    /// The sentence in the help that describes the setting.
    pub help: &'static str,
}

/// The setting that says which machine the broker runs on.
pub const HOST: &str = "SLM_MESH_HOST";
/// The setting with the name of this machine.
pub const MACHINE: &str = "SLM_MESH_MACHINE";
/// The setting with the shared secret, which must not be shown.
pub const SECRET: &str = "SLM_MESH_SHARED_SECRET";
/// The setting that lists the agents that may be woken by mail.
pub const WAKE: &str = "SLM_MESH_WAKE";
/// The setting that lists the agents whose shell commands run in a shield, a sandbox in which locked files are
/// read-only.
pub const SHIELD: &str = "SLM_MESH_SHIELD";

/// The setting that allows or forbids discovery of hubs on the local network.
pub const DISCOVERY: &str = "SLM_MESH_DISCOVERY";

/// The setting with the addresses of the linked meshes.
pub const LINKS: &str = "SLM_MESH_PEER_URL";

/// The setting that says how people are notified of alerts.
pub const NOTIFY: &str = "SLM_MESH_NOTIFY";

/// The variable that contains the id of the session to which a shell belongs.
pub const SESSION: &str = "SLM_MESH_SESSION";

/// The setting that allows or forbids reading transcripts.
pub const TRANSCRIPTS: &str = "SLM_MESH_TRANSCRIPTS";

/// The setting that contains the address of the log that several hubs share.
pub const STORE: &str = "SLM_MESH_STORE";
/// The setting with the password for etcd, which must not be shown.
pub const STORE_PASSWORD: &str = "SLM_MESH_STORE_PASSWORD";

/// All settings except `SLM_MESH_DATA_DIR`. That setting can't be in the settings file, because it says where the file
/// is.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "SLM_MESH_NAME",
        range: SettingRange::Text(128),
        default: "",
        help: "Name of the session; by default <agent>-<folder>",
    },
    Setting {
        name: "SLM_MESH_PEER",
        range: SettingRange::Text(128),
        default: "",
        help: "Name or id of the peer to act as. With this setting, `slm-mesh inbox` marks the peer's mail as \
               read. With --as, it does so only together with --take",
    },
    Setting {
        name: SESSION,
        range: SettingRange::Text(128),
        default: "",
        help: "Session to which this shell belongs; an agent's hook sets this",
    },
    Setting {
        name: "SLM_MESH_PORT",
        range: SettingRange::Int(1, 65_535),
        default: "7899",
        help: "HTTP port; if it is taken, the broker uses one of the next nine ports",
    },
    Setting {
        name: HOST,
        range: SettingRange::Text(2048),
        default: "127.0.0.1",
        help: "Where the broker runs. An address of this machine that others can reach (0.0.0.0 for all addresses) \
               makes this machine a hub. Another machine's name or address (with :port if needed), or \
               ssh://[user@]host[:port], makes this machine a guest of that hub. If several hubs share the mesh, list \
               all of them, separated by commas",
    },
    Setting {
        name: MACHINE,
        range: SettingRange::Text(64),
        default: "",
        help: "Name of this machine in the mesh; by default its host name. Two machines of one mesh need different names",
    },
    Setting {
        name: SECRET,
        range: SettingRange::Text(1024),
        default: "",
        help: "Secret that a hub and its guests share; to generate a good one, run slm-mesh secret",
    },
    Setting {
        name: "SLM_MESH_WS_PORT",
        range: SettingRange::Int(0, 65_535),
        default: "0",
        help: "Port on which the hub serves sessions on other machines; 0 = the port after the HTTP port",
    },
    Setting {
        name: "SLM_MESH_BEARER",
        range: SettingRange::Words(&["on", "off"]),
        default: "on",
        help: "on: a hub accepts older clients, which send the secret itself as a bearer token over HTTP",
    },
    Setting {
        name: "SLM_MESH_ROLE",
        range: SettingRange::Words(&["auto", "broker", "client"]),
        default: "auto",
        help: "broker: serve on the address in SLM_MESH_HOST; client: use the hub at that address; auto: broker if the \
               address is this machine's, otherwise client",
    },
    Setting {
        name: STORE,
        range: SettingRange::Text(1024),
        default: "",
        help: "etcds://HOST:2379,HOST:2379/NAME: keep the mesh in etcd, so that several hubs can share it and replace \
               each other; etcd://, which has no TLS, is allowed only for an etcd on this machine",
    },
    Setting {
        name: "SLM_MESH_STORE_CA",
        range: SettingRange::Text(4096),
        default: "",
        help: "PEM file with the certificate of the authority that signed etcd's certificates",
    },
    Setting {
        name: "SLM_MESH_STORE_CERT",
        range: SettingRange::Text(4096),
        default: "",
        help: "PEM file with this hub's client certificate for etcd; the certificate must have no common name",
    },
    Setting {
        name: "SLM_MESH_STORE_KEY",
        range: SettingRange::Text(4096),
        default: "",
        help: "PEM file with the key of the certificate in SLM_MESH_STORE_CERT",
    },
    Setting {
        name: "SLM_MESH_STORE_USER",
        range: SettingRange::Text(128),
        default: "",
        help: "User name for etcd, if etcd requires authentication",
    },
    Setting {
        name: STORE_PASSWORD,
        range: SettingRange::Text(1024),
        default: "",
        help: "Password of the user in SLM_MESH_STORE_USER; put it into the `config` file, which only you can read",
    },
    Setting {
        name: "SLM_MESH_LEASE",
        range: SettingRange::Int(2, 60),
        default: "3",
        help: "Seconds of silence after which another hub takes over from the leader",
    },
    Setting {
        name: DISCOVERY,
        range: SettingRange::Words(&["on", "off"]),
        default: "on",
        help: "Whether this machine announces its hub, or searches for hubs, on the local network (multicast DNS)",
    },
    Setting {
        name: LINKS,
        range: SettingRange::Text(2048),
        default: "",
        help: "Addresses of linked meshes, such as http://host:7899, separated by commas. Each must be the address of \
               an slm-mesh broker or a SuperLocalMemory daemon. The secret, if one is set, is sent to each of them. \
               Links do not work together with SLM_MESH_STORE",
    },
    Setting {
        name: "SLM_MESH_IDLE_TIMEOUT",
        range: SettingRange::Int(0, 30 * DAY_MS),
        default: "60000",
        help: "Milliseconds without sessions or calls after which a broker stops; 0 = never. A hub runs until it is \
               stopped",
    },
    Setting {
        name: "SLM_MESH_HEARTBEAT_MS",
        range: SettingRange::Int(100, DAY_MS),
        default: "15000",
        help: "Milliseconds of silence after which the broker checks whether a session still answers",
    },
    Setting {
        name: "SLM_MESH_STALE_MS",
        range: SettingRange::Int(100, DAY_MS),
        default: "30000",
        help: "Milliseconds without a heartbeat after which an HTTP peer counts as stale",
    },
    Setting {
        name: "SLM_MESH_DEAD_MS",
        range: SettingRange::Int(100, 30 * DAY_MS),
        default: "60000",
        help: "Milliseconds after which an HTTP peer without a heartbeat counts as gone, and a session that does not \
               answer counts as offline",
    },
    Setting {
        name: "SLM_MESH_LOCK_TTL_MIN",
        range: SettingRange::Int(1, 60),
        default: "10",
        help: "Minutes that a lock lasts if the request does not say how long",
    },
    Setting {
        name: "SLM_MESH_RATE",
        range: SettingRange::Int(1, 10_000_000),
        default: "100",
        help: "Number of messages that one sender may send in 10 s; the limit for state changes is ten times as high",
    },
    Setting {
        name: "SLM_MESH_HOOK_BUDGET_MS",
        range: SettingRange::Int(1, 60_000),
        default: "50",
        help: "Milliseconds that a hook waits for the broker before it lets the agent continue; while the broker starts, at \
               least 1000",
    },
    Setting {
        name: WAKE,
        range: SettingRange::Several(known_agents::wakeable),
        default: "",
        help: "Agents whose idle sessions may be woken by direct messages; setup --wake changes this setting",
    },
    Setting {
        name: SHIELD,
        range: SettingRange::Several(known_agents::shieldable),
        default: "",
        help: "Agents whose shell commands run in a shield, where they cannot write files that other peers have \
               locked; setup --shield changes this setting",
    },
    Setting {
        name: NOTIFY,
        range: SettingRange::WordsOrCommand(&["off", "desktop"]),
        default: "off",
        help: "How the broker notifies you of an unread alert: desktop, or a command that runs without a shell and \
               gets the alert as JSON on standard input",
    },
    Setting {
        name: TRANSCRIPTS,
        range: SettingRange::Words(&["on", "off"]),
        default: "on",
        help: "off: no transcript is read (by slm-mesh transcript or mesh_peers), and hooks do not report where \
               transcripts are",
    },
    Setting {
        name: "SLM_MESH_SYNC",
        range: SettingRange::Words(&["normal", "full"]),
        default: "normal",
        help: "normal: stored data survives the crash of any process; full: it also survives a power loss",
    },
];

impl Setting {
    /// Describes the values that the setting accepts.
    pub fn want(&self) -> String {
        match self.range {
            SettingRange::Int(min, max) => format!("a whole number from {min} to {max}"),
            SettingRange::Words(words) => format!("one of {}", words.join(", ")),
            SettingRange::Several(words) => format!("any of {}, separated by commas", words().join(", ")),
            SettingRange::WordsOrCommand(words) => {
                format!("{}, or a command that begins with the absolute path of a program", words.join(", "))
            }
            SettingRange::Text(max) => format!("text of at most {max} bytes"),
        }
    }

    pub(super) fn check(&self, value: &str) -> Result<(), Error> {
        let fits = match self.range {
            SettingRange::Int(min, max) => value.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n)),
            SettingRange::Words(words) => words.contains(&value),
            SettingRange::Several(words) => {
                let words = words();
                value.split(',').all(|word| word.trim().is_empty() || words.contains(&word.trim()))
            }
            SettingRange::WordsOrCommand(words) => {
                words.contains(&value) || value.starts_with('/') && !value.contains(char::is_control)
            }
            SettingRange::Text(max) => value.len() <= max,
        };
        if fits || self.name == SECRET && value.is_empty() {
            Ok(())
        } else {
            Err(self.error(&format!("\"{}\"", value.chars().take(40).collect::<String>())))
        }
    }

    pub(super) fn error(&self, got: &str) -> Error {
        Error::new(ErrorKind::Usage, format!("{}: expected {}, got {got}", self.name, self.want()))
    }
}
