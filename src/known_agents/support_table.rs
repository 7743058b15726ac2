//! What works with an agent, and how we know: its row in the README.

/// What works with an agent, and how we know.
#[derive(Debug, Clone, Copy)]
pub struct Support {
    /// The version that was run; empty if none was.
    pub version: &'static str,
    /// Mail reaches the model with a prompt.
    pub mail_at_prompt: Evidence,
    /// Mail reaches the model during a turn.
    pub mail_mid_turn: Evidence,
    /// Mail wakes an idle session.
    pub wakes_idle: Evidence,
    /// An edit of a locked file is denied.
    pub edit_denied: Evidence,
    /// A shell command does not write a locked file unnoticed.
    pub shell: ShellTiers,
    /// `slm-mesh setup` sets it up.
    pub set_up: Evidence,
}

/// How we know that something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// `make test-agents` shows it with the real agent.
    Run,
    /// Our tests show it on files as people have them.
    Test,
    /// Our hook follows the agent's documentation, and is tested against that alone.
    Docs,
    /// It does not work.
    No,
}

/// What a lock does against shell commands.
#[derive(Debug, Clone, Copy)]
pub struct ShellTiers {
    /// A command that would plainly write a locked file does not run.
    pub denied: Evidence,
    /// A command that wrote one all the same is reported to its agent and to the holder.
    pub reported: Evidence,
    /// While others hold files, commands run in a shield if the user wants that.
    pub shielded: Evidence,
}

/// Set-up connects the agent, and no hook of it can carry mail.
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
    /// Everything but waking works, and `make test-agents` shows it with this version.
    pub(super) const fn run(version: &'static str) -> Support {
        Support { version, set_up: Evidence::Run, ..Support::hooks(Evidence::Run) }
    }

    /// The same, and commands can run in a shield.
    pub(super) const fn with_shield(self, shielded: Evidence) -> Support {
        Support { shell: ShellTiers { shielded, ..self.shell }, ..self }
    }

    /// Everything but waking should work, as the agent's documentation says.
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

    /// The cells of its row, in the order of [`Support::HEADS`].
    pub fn cells(&self) -> [String; 6] {
        let Support { mail_at_prompt, mail_mid_turn, wakes_idle, edit_denied, shell, set_up, .. } = self;
        let word = |evidence: &Evidence| evidence.word().to_owned();
        [word(mail_at_prompt), word(mail_mid_turn), word(wakes_idle), word(edit_denied), shell.words(), word(set_up)]
    }

    /// What the cells say.
    pub const HEADS: [&str; 6] = ["mail at prompt", "mail mid-turn", "wakes idle", "edit denied", "shell", "setup"];
}

impl ShellTiers {
    /// What works, each with how we know.
    fn words(&self) -> String {
        let tiers = [("denied", self.denied), ("reported", self.reported), ("shielded", self.shielded)];
        let works = tiers.iter().filter(|(_, evidence)| *evidence != Evidence::No);
        let words: Vec<String> = works.map(|(tier, evidence)| format!("{tier} {}", evidence.word())).collect();
        if words.is_empty() { Evidence::No.word().to_owned() } else { words.join(", ") }
    }
}

impl Evidence {
    /// The word in the README.
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Run => "run",
            Evidence::Test => "test",
            Evidence::Docs => "docs",
            Evidence::No => "no",
        }
    }
}
