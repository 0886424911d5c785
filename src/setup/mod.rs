//! Tools that can be set up to use this program: what each is, what is written into its configuration, and how that is
//! undone.
//!
//! Hazards: a tool's file is its user's, with comments and keys of theirs; a key written into it is leaked (Qwen Code
//! rewrites its own with mode 0644). Rules: only the keys of a [`Plan`] are changed, by edits that keep the rest; the
//! previous values are recorded before they change; and a plan contains references to a credential, never a credential.

mod claude_code;
mod codex;
mod document;
pub(crate) mod known_programs;
mod merge;
mod opencode;
mod qwen_code;
mod readback;
mod record;
mod removal;
mod snippets;
mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use self::document::{ConfigDocument, KeyPath, Syntax};
pub(crate) use self::merge::Applied;
use self::readback::Check;
pub(crate) use self::record::load as recorded;
pub(crate) use self::removal::{Removed, remove};
use crate::error::{Failed, Failure, for_sh, nearest, printable};
use crate::platform::tools::{self, Places};
use crate::providers::Model;

/// The name under which a tool knows this program as a provider.
const NAME: &str = "qwenauth";

/// A program that can be set up.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What it is called on `PATH`.
    pub(crate) program: &'static str,
    kind: ToolKind,
}

enum ToolKind {
    /// Its configuration is written.
    Written { file: fn(&ToolPaths) -> PathBuf, plan: fn(&Access, &ToolPaths) -> Result<Plan> },
    /// A text to paste.
    Printed,
}

pub(crate) const TOOLS: [Tool; 11] = [
    Tool {
        name: "opencode",
        title: "opencode",
        program: "opencode",
        kind: ToolKind::Written { file: opencode::file, plan: opencode::plan },
    },
    Tool {
        name: "qwen-code",
        title: "Qwen Code",
        program: "qwen",
        kind: ToolKind::Written { file: qwen_code::file, plan: qwen_code::plan },
    },
    Tool {
        name: "codex",
        title: "Codex",
        program: "codex",
        kind: ToolKind::Written { file: codex::file, plan: codex::plan },
    },
    Tool {
        name: "claude-code",
        title: "Claude Code",
        program: "claude",
        kind: ToolKind::Written { file: claude_code::file, plan: claude_code::plan },
    },
    Tool { name: "aider", title: "aider", program: "aider", kind: ToolKind::Printed },
    Tool { name: "llm", title: "llm", program: "llm", kind: ToolKind::Printed },
    Tool { name: "crush", title: "Crush", program: "crush", kind: ToolKind::Printed },
    Tool { name: "goose", title: "goose", program: "goose", kind: ToolKind::Printed },
    Tool { name: "continue", title: "Continue", program: "cn", kind: ToolKind::Printed },
    Tool { name: "zed", title: "Zed", program: "zed", kind: ToolKind::Printed },
    Tool { name: "cline", title: "Cline", program: "cline", kind: ToolKind::Printed },
];

/// Where tools keep their files: their own variables, read by the caller.
pub(crate) struct ToolPaths {
    pub(crate) home: PathBuf,
    /// The user's, not ours: `XDG_CONFIG_HOME` or `~/.config`, on every system.
    pub(crate) config: PathBuf,
    pub(crate) places: Places,
    pub(crate) qwen: PathBuf,
    pub(crate) opencode_config: Option<PathBuf>,
    pub(crate) opencode_directory: Option<PathBuf>,
    pub(crate) codex_home: Option<PathBuf>,
    pub(crate) claude_config: Option<PathBuf>,
    /// The working directory.
    pub(crate) work: PathBuf,
}

impl ToolPaths {
    fn codex_directory(&self) -> PathBuf {
        self.codex_home.clone().unwrap_or_else(|| self.home.join(".codex"))
    }
}

#[cfg(test)]
impl ToolPaths {
    /// Those of a user without settings, in `work`.
    fn of(home: &Path, work: &Path) -> Self {
        let config = home.join(".config");
        Self {
            places: Places::new(&config, home, None, None),
            qwen: home.join(".qwen"),
            opencode_config: None,
            opencode_directory: None,
            codex_home: None,
            claude_config: None,
            work: work.to_owned(),
            home: home.to_owned(),
            config,
        }
    }
}

/// What a tool is set up with.
pub(crate) struct Access {
    pub(crate) profile: String,
    /// The provider's, as a person knows it.
    pub(crate) title: String,
    pub(crate) base_url: String,
    /// The base URL of Anthropic's protocol, if the provider supports it.
    pub(crate) anthropic: Option<String>,
    /// Whether the provider is known to serve `/responses`, or may.
    pub(crate) has_responses: bool,
    /// Sent with every API request; `{user-agent}` is replaced by the User-Agent of the request.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) model: String,
    pub(crate) models: Vec<Model>,
    /// Whether the credential is the file shared with Qwen Code.
    pub(crate) shared_with_qwen_code: bool,
    /// Where the gateway's key is, when the tool is to use a gateway.
    pub(crate) gateway_key: Option<GatewayKey>,
    /// How this program is started from anywhere.
    pub(crate) program: String,
}

#[cfg(test)]
impl Access {
    /// Of the profile `qwen`, with the model `m` of `T`.
    fn of_a_profile() -> Self {
        Self {
            profile: "qwen".into(),
            title: "T".into(),
            base_url: "https://example.com/v1".into(),
            anthropic: None,
            has_responses: false,
            headers: BTreeMap::new(),
            model: "m".into(),
            models: Vec::new(),
            shared_with_qwen_code: false,
            gateway_key: None,
            program: "qwenauth".into(),
        }
    }
}

/// Where a tool finds the key of a gateway.
pub(crate) enum GatewayKey {
    File(PathBuf),
    /// The name of a variable in the tool's environment.
    Variable(String),
}

impl Access {
    /// The command that prints the key, as words.
    ///
    /// The profile is named: with another one active later, its key would be sent to this one's host.
    fn key_command(&self) -> Vec<String> {
        match &self.gateway_key {
            Some(GatewayKey::File(file)) => tools::print_file(file),
            Some(GatewayKey::Variable(name)) => tools::print_variable(name),
            None => vec![self.program.clone(), "token".into(), "--profile".into(), self.profile.clone()],
        }
    }

    /// The same for the shell that tools run a command line with.
    fn key_command_line(&self) -> String {
        self.key_command().iter().map(|word| tools::quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// The same for a POSIX shell, which Crush has inside on every system.
    fn key_command_for_sh(&self) -> String {
        self.key_command().iter().map(|word| for_sh(word)).collect::<Vec<_>>().join(" ")
    }

    /// What the tool shows for the provider.
    fn provider_title(&self) -> String {
        format!("{} ({NAME})", self.title)
    }

    /// All models, the chosen one first.
    fn models(&self) -> Vec<Model> {
        let chosen = self.models.iter().find(|model| model.id == self.model).cloned();
        let mut models = vec![chosen.unwrap_or_else(|| Model { id: self.model.clone(), ..Model::default() })];
        models.extend(self.models.iter().filter(|model| model.id != self.model).cloned());
        models
    }
}

/// What is written for one tool.
pub(crate) struct Plan {
    file: PathBuf,
    syntax: Syntax,
    entries: Vec<(KeyPath, Value)>,
    /// Written where the file has another value: the tool would prefer it to the entries.
    over: Vec<(KeyPath, Value)>,
    /// What decides whether the tool uses the entries.
    checks: Vec<Check>,
    companions: Vec<Companion>,
    /// What the user has to know or do in addition.
    pub(crate) note: Option<String>,
}

/// A file of our own next to the tool's, which the tool reads.
struct Companion {
    file: PathBuf,
    text: String,
    /// Where the user has such a file, theirs stays and will do.
    yields: bool,
}

/// The tool called `name`, by its own name or that of its program.
pub(crate) fn find(name: &str) -> Result<&'static Tool> {
    if let Some(tool) = TOOLS.iter().find(|tool| tool.name == name || tool.program == name) {
        return Ok(tool);
    }
    let failed = Failed::new(Failure::Usage, format!("unknown tool `{}`", printable(name)));
    // VS Code is no Codex.
    let near = if matches!(name, "code" | "vscode") {
        None
    } else {
        nearest(name, TOOLS.iter().flat_map(|tool| [tool.name, tool.program]))
    };
    match near {
        Some(near) => failed.hint(format!("did you mean `{near}`?")),
        None => {
            failed.hint("run `qwenauth setup` to list the tools; for any other program use `qwenauth exec -- PROGRAM`")
        }
    }
    .err()
}

/// How one tool is set up.
pub(crate) enum SetUp {
    Plan(Plan),
    /// To be pasted; `start`: the command that starts the tool then, where not its own name alone.
    Text {
        place: String,
        text: String,
        start: Option<String>,
    },
}

impl Tool {
    /// Whether `setup` writes it.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.kind, ToolKind::Written { .. })
    }

    /// The file that is written.
    pub(crate) fn file(&self, tool_paths: &ToolPaths) -> Option<PathBuf> {
        match self.kind {
            ToolKind::Written { file, .. } => Some(file(tool_paths)),
            ToolKind::Printed => None,
        }
    }

    pub(crate) fn set_up(&self, access: &Access, tool_paths: &ToolPaths) -> Result<SetUp> {
        match self.kind {
            ToolKind::Written { plan, .. } => plan(access, tool_paths).map(SetUp::Plan),
            ToolKind::Printed => snippets::text(self.name, access, tool_paths),
        }
    }
}

impl Tool {
    /// Whether it takes the key and base URL of a gateway from nothing but its environment.
    pub(crate) fn reads_environment_only(&self) -> bool {
        matches!(self.name, "aider" | "goose" | "qwen-code")
    }

    /// Variables of another service that the written configuration replaces.
    pub(crate) fn replaced_variables(&self) -> Vec<&'static str> {
        if self.name == "claude-code" { claude_code::replaced_variables().collect() } else { Vec::new() }
    }
}

impl Plan {
    /// What would be written, as a text to paste, and its file.
    pub(crate) fn print(&self) -> Result<(&Path, String)> {
        let mut document = ConfigDocument::parse("", self.syntax, &self.file)?;
        for (place, value) in &self.entries {
            document.set(place, value)?;
        }
        let mut text = document.to_text();
        for Companion { file, text: companion, .. } in &self.companions {
            text += &format!("\n// {}\n{companion}", file.display());
        }
        Ok((&self.file, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_model_comes_first_whether_the_provider_names_it_or_not() {
        let ids = |model: &str| {
            let models = ["a", "b", "c"].map(|id| Model { id: id.into(), ..Model::default() }).to_vec();
            let access = Access { model: model.into(), models, ..Access::of_a_profile() };
            access.models().into_iter().map(|model| model.id).collect::<Vec<_>>().concat()
        };
        assert_eq!([ids("b"), ids("m")], ["bac", "mabc"]);
    }
}
