//! Which features work with an agent, and how we know that. The README contains these facts as a table.

/// Which features work with an agent, and how we know that.
#[derive(Debug, Clone, Copy)]
pub struct Support {
    /// The version of the agent that our tests ran; empty if they did not run the agent.
    pub version: &'static str,
    /// Whether mail reaches the model together with a prompt.
    pub mail_at_prompt: Evidence,
    /// Whether mail reaches the model during a turn.
    pub mail_mid_turn: Evidence,
    /// Whether mail wakes an idle session.
    pub wakes_idle: Evidence,
    /// Whether an edit of a locked file is denied.
    pub edit_denied: Evidence,
    /// How locks protect files from shell commands.
    pub shell: ShellTiers,
    /// Whether `slm-mesh setup` can set up the agent.
    pub set_up: Evidence,
}

/// How we know that a feature works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// `make test-agents` has shown the feature with the real agent.
    Run,
    /// Our tests show that the feature works with real settings files, but they do not run the real agent.
    Test,
    /// The agent's documentation describes the feature. Our tests follow the documentation, but do not run the real
    /// agent.
    Docs,
    /// The feature does not work.
    No,
}

/// How locks protect files from shell commands.
#[derive(Debug, Clone, Copy)]
pub struct ShellTiers {
    /// Whether a command is refused if its text shows that the command would write a locked file.
    pub denied: Evidence,
    /// Whether the agent and the holder of the lock get a report after a command has written a locked file.
    pub reported: Evidence,
    /// Whether commands can run in a shield (a sandbox that protects locked files), if the user has asked for shields.
    pub shielded: Evidence,
}

/// The features of an agent that has no hooks, or only hooks that cannot show mail. `setup` can set up the agent.
pub(super) const NO_HOOKS: Support = Support {
    version: "",
    mail_at_prompt: Evidence::No,
    mail_mid_turn: Evidence::No,
    wakes_idle: Evidence::No,
    edit_denied: Evidence::No,
    shell: ShellTiers { denied: Evidence::No, reported: Evidence::No, shielded: Evidence::No },
    set_up: Evidence::Test,
};

impl Support {
    /// The features of an agent for which everything works except waking and shields. `make test-agents` has shown this
    /// with version `version` of the agent.
    pub(super) const fn run(version: &'static str) -> Support {
        Support { version, set_up: Evidence::Run, ..Support::hooks(Evidence::Run) }
    }

    /// Adds the feature of running commands in a shield. `shielded` says how we know that this feature works.
    pub(super) const fn with_shield(self, shielded: Evidence) -> Support {
        Support { shell: ShellTiers { shielded, ..self.shell }, ..self }
    }

    /// The features of an agent whose documentation says that everything works except waking and shields.
    pub(super) const fn documented() -> Support {
        Support::hooks(Evidence::Docs)
    }

    const fn hooks(evidence: Evidence) -> Support {
        Support {
            mail_at_prompt: evidence,
            mail_mid_turn: evidence,
            edit_denied: evidence,
            shell: ShellTiers { denied: evidence, reported: evidence, ..NO_HOOKS.shell },
            ..NO_HOOKS
        }
    }

    /// The cells of the agent's row, in the order of [`Support::HEADS`].
    pub fn cells(&self) -> [String; 6] {
        let Support { mail_at_prompt, mail_mid_turn, wakes_idle, edit_denied, shell, set_up, .. } = self;
        let word = |evidence: &Evidence| evidence.word().to_owned();
        [word(mail_at_prompt), word(mail_mid_turn), word(wakes_idle), word(edit_denied), shell.words(), word(set_up)]
    }

    /// The headings of the columns.
    pub const HEADS: [&str; 6] = ["mail at prompt", "mail mid-turn", "wakes idle", "edit denied", "shell", "setup"];
}

impl ShellTiers {
    /// Returns the kinds of protection that work. After each kind comes the word for its evidence: `run`, `test` or
    /// `docs`.
    fn words(&self) -> String {
        let tiers = [("denied", self.denied), ("reported", self.reported), ("shielded", self.shielded)];
        let works = tiers.iter().filter(|(_, evidence)| *evidence != Evidence::No);
        let words: Vec<String> = works.map(|(tier, evidence)| format!("{tier} {}", evidence.word())).collect();
        if words.is_empty() { Evidence::No.word().to_owned() } else { words.join(", ") }
    }
}

impl Evidence {
    /// The word for this evidence in the README.
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Run => "run",
            Evidence::Test => "test",
            Evidence::Docs => "docs",
            Evidence::No => "no",
        }
    }
}
