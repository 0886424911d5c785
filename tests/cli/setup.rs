//! `setup`: a tool's file gets our places and keeps the rest, and `--remove` undoes exactly that.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::faults::faulty;
use crate::machine::{Machine, mode, write_private};

const TOOLS: [(&str, &str); 4] = [
    ("opencode", ".config/opencode/opencode.json"),
    ("qwen-code", ".qwen/settings.json"),
    ("codex", ".codex/config.toml"),
    ("claude-code", ".claude/settings.json"),
];

const MINE: &str = "{\n  // mine\n  \"theme\": \"dark\", // kept\n  \"provider\": {\n    \"own\": {\"npm\": \"x\"} /* too */\n  },\n  \"model\": \"own/best\",\n}\n";

const MY_TOML: &str = "# mine\nmodel = \"gpt\" # best\n\n[model_providers.own] # kept\nname = \"own\"\n";

/// For Qwen Code, whose `model` is an object.
fn mine(tool: &str) -> String {
    match tool {
        "codex" => MY_TOML.to_owned(),
        "qwen-code" => MINE.replace("\"own/best\"", "{\"own\": 1}"),
        _ => MINE.to_owned(),
    }
}

impl Machine {
    fn at_home(self) -> Self {
        let program = self.program().parent().unwrap().display().to_string();
        self.logged_in().variable("PATH", format!("{program}:/usr/bin:/bin"))
    }

    fn with(self, file: &str, content: &str) -> Self {
        write_private(&self.home().join(file), content);
        self
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.home().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn sets_up(&self, tool: &str) {
        self.run(["setup", tool]).exits(0).any_stderr();
    }

    fn removes(&self, tool: &str) {
        self.run(["setup", tool, "--remove"]).exits(0).any_stderr();
    }

    /// Every file and directory under the home directory but ours and the credential's.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        crate::machine::each_path(&self.home(), &mut |path| {
            let name = path.strip_prefix(self.home()).unwrap();
            let ours = name.starts_with(".local") || path == self.file() || path == self.kernel_lock();
            if !ours && path != self.home() && path != self.file().parent().unwrap() {
                paths.push(name.to_owned());
            }
        });
        paths.sort();
        paths
    }

    /// Of these the files.
    fn files(&self) -> Vec<PathBuf> {
        self.paths().into_iter().filter(|path| self.home().join(path).is_file()).collect()
    }
}

/// The working directory decides nothing.
#[test]
fn a_relative_path_in_a_variable_of_a_tool_is_ignored() {
    for (variable, tool) in [
        ("CODEX_HOME", 2),
        ("CLAUDE_CONFIG_DIR", 3),
        ("OPENCODE_CONFIG", 0),
        ("OPENCODE_CONFIG_DIR", 0),
        ("XDG_CONFIG_HOME", 0),
    ] {
        let (tool, file) = TOOLS[tool];
        let machine = Machine::new().at_home().variable(variable, "relative");
        machine.sets_up(tool);
        assert!(machine.home().join(file).exists(), "{variable}");
        assert!(!machine.directory().join("relative").exists(), "{variable}");
    }
}

#[test]
fn a_tool_that_was_set_up_is_as_before_once_it_is_removed() {
    for (tool, file) in TOOLS {
        let machine = Machine::new().at_home();
        machine.sets_up(tool);
        let text = machine.text(file);
        assert!(text.contains("coder-model"), "{tool}: {text}");
        assert!(!text.contains("granted-"), "{tool} has a secret");
        machine.removes(tool);
        assert_eq!(machine.paths(), Vec::<PathBuf>::new(), "{tool}");
    }
}

#[test]
fn a_file_that_setup_created_is_removed_although_it_was_changed_and_set_up_again() {
    for (tool, file) in TOOLS {
        let machine = Machine::new().at_home();
        machine.sets_up(tool);
        let reformatted = machine.text(file) + "\n";
        let machine = machine.with(file, &reformatted);
        machine.sets_up(tool);
        machine.removes(tool);
        assert_eq!(machine.paths(), Vec::<PathBuf>::new(), "{tool}");
    }
}

#[test]
fn what_was_added_to_a_file_that_setup_created_stays_and_so_does_a_file_that_was_there() {
    let added = "\n[tui]\nanimations = false\n";
    let machine = Machine::new().at_home();
    machine.sets_up("codex");
    let text = machine.text(".codex/config.toml") + added;
    let machine = machine.with(".codex/config.toml", &text);
    machine.removes("codex");
    assert_eq!(machine.text(".codex/config.toml").trim_start(), added.trim_start());
    // An empty object was theirs, although the file was edited since.
    let machine = Machine::new().at_home().with(".config/opencode/opencode.json", "{}\n");
    machine.sets_up("opencode");
    let text = machine.text(".config/opencode/opencode.json") + "\n";
    let machine = machine.with(".config/opencode/opencode.json", &text);
    machine.removes("opencode");
    assert_eq!(machine.text(".config/opencode/opencode.json").trim(), "{}");
}

#[test]
fn a_backup_that_someone_changed_is_not_put_back() {
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home().with(file, MY_TOML);
    machine.sets_up("codex");
    let machine = machine.with(&format!("{file}.qwenauth-backup"), "model = \"forged\"\n");
    machine.removes("codex");
    let text = machine.text(file);
    assert!(text.contains("model = \"gpt\"") && !text.contains("forged"), "{text}");
}

#[test]
fn directories_that_setup_created_stay_if_they_hold_other_files() {
    let machine = Machine::new().at_home();
    machine.sets_up("opencode");
    let machine = machine.with(".config/opencode/plugin/theirs.js", "export {}\n");
    machine.removes("opencode");
    assert_eq!(machine.files(), [PathBuf::from(".config/opencode/plugin/theirs.js")]);
    let machine = Machine::new().at_home().with(".codex/theirs", "");
    machine.sets_up("codex");
    machine.removes("codex");
    assert_eq!(machine.files(), [PathBuf::from(".codex/theirs")]);
    let machine = Machine::new().at_home();
    fs::create_dir(machine.home().join(".claude")).unwrap();
    machine.sets_up("claude-code");
    machine.removes("claude-code");
    assert_eq!(machine.paths(), [PathBuf::from(".claude")], "an empty directory of theirs is gone");
}

#[test]
fn a_tool_that_reads_another_file_now_is_undone_in_the_one_before() {
    let machine = Machine::new().at_home().with("mine.json", MINE);
    let place = machine.home().join("mine.json");
    let machine = machine.variable("OPENCODE_CONFIG", place);
    machine.sets_up("opencode");
    let machine = machine.without_variable("OPENCODE_CONFIG");
    machine.sets_up("opencode");
    assert_eq!(machine.text("mine.json"), MINE);
    machine.removes("opencode");
    assert_eq!(machine.files(), [PathBuf::from("mine.json")]);
}

#[test]
fn an_edited_block_in_the_file_before_is_not_left_behind_unseen() {
    let machine = Machine::new().at_home().with("mine.json", MINE);
    let place = machine.home().join("mine.json");
    let machine = machine.variable("OPENCODE_CONFIG", place);
    machine.sets_up("opencode");
    let edited = machine.text("mine.json").replace("Qwen OAuth (qwenauth)", "Renamed");
    let machine = machine.with("mine.json", &edited).without_variable("OPENCODE_CONFIG");
    machine.run(["setup", "opencode"]).fails(
        1,
        "opencode was configured in `{home}/mine.json`, which has been edited since",
        "run `qwenauth setup opencode --remove` to see the edit",
    );
    assert_eq!(machine.text("mine.json"), edited);
    assert!(!machine.home().join(".config/opencode/opencode.json").exists());
}

#[test]
fn opencode_gives_npm_up_at_once_wherever_it_waits_for_it() {
    let machine = Machine::new().at_home();
    let place = machine.home().join("elsewhere");
    let machine = machine.variable("OPENCODE_CONFIG_DIR", place);
    machine.sets_up("opencode");
    for file in ["elsewhere/.npmrc", ".config/opencode/.npmrc"] {
        assert!(machine.text(file).contains("\nfetch-retries=0\n"), "{file}");
    }
    machine.removes("opencode");
    assert_eq!(machine.paths(), Vec::<PathBuf>::new());
    let theirs = "registry=https://npm.example/\n";
    let machine = Machine::new().at_home().with(".config/opencode/.npmrc", theirs);
    machine.sets_up("opencode");
    assert_eq!(machine.text(".config/opencode/.npmrc"), theirs);
    machine.removes("opencode");
    assert_eq!(machine.files(), [PathBuf::from(".config/opencode/.npmrc")]);
}

#[test]
fn comments_order_and_foreign_keys_are_kept_and_come_back_byte_by_byte() {
    for (tool, file) in TOOLS {
        let (file, mine) = (file.replace("opencode.json", "opencode.jsonc"), mine(tool));
        let file = file.as_str();
        let machine = Machine::new().at_home().with(file, &mine);
        machine.sets_up(tool);
        let text = machine.text(file);
        assert_ne!(text, mine, "{tool}");
        let beside_a_value = if tool == "codex" { "# best" } else { "/* too */" };
        for kept in ["mine", "own", "kept", beside_a_value] {
            assert!(text.contains(kept), "{tool}: {text}");
        }
        machine.removes(tool);
        assert_eq!(machine.text(file), mine, "{tool}");
        assert_eq!(machine.files(), [PathBuf::from(file)], "{tool}");
    }
}

#[test]
fn what_is_changed_elsewhere_meanwhile_stays_after_removal() {
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home().with(file, MY_TOML);
    machine.sets_up("codex");
    let text = machine.text(file) + "\n[tui]\nanimations = false\n";
    let machine = machine.with(file, &text);
    machine.removes("codex");
    let text = machine.text(file);
    assert_eq!(text.matches("qwenauth").count(), 0, "{text}");
    for kept in ["model = \"gpt\"", "[model_providers.own] # kept", "[tui]\nanimations = false"] {
        assert!(text.contains(kept), "{text}");
    }
    assert!(!text.contains("model_context_window"), "{text}");
}

#[test]
fn a_second_setup_changes_nothing() {
    for (tool, file) in TOOLS {
        let machine = Machine::new().at_home().with(file, &mine(tool));
        let before = machine.text(file);
        machine.sets_up(tool);
        let once = machine.text(file);
        let outcome = machine.run(["setup", tool]).exits(0).any_stderr();
        assert!(outcome.stderr.contains(" already uses profile `qwen`"), "{outcome}");
        assert_eq!(machine.text(file), once, "{tool}");
        machine.run(["setup", tool, "--model", "vision-model"]).exits(0).any_stderr();
        assert!(machine.text(file).contains("vision-model"), "{tool}");
        machine.removes(tool);
        assert_eq!(machine.text(file), before, "{tool}");
    }
}

#[test]
fn a_block_edited_by_hand_is_shown_and_kept_unless_forced() {
    let file = ".config/opencode/opencode.json";
    let machine = Machine::new().at_home().with(file, MINE);
    machine.sets_up("opencode");
    let edited = machine.text(file).replace("Qwen OAuth (qwenauth)", "Renamed");
    let machine = machine.with(file, &edited);
    let outcome = machine.run(["setup", "opencode", "--remove"]).exits(1).any_stderr();
    let expected = "  provider.qwenauth\n-   \"name\": \"Qwen OAuth (qwenauth)\",\n+   \"name\": \"Renamed\",\n\
         qwenauth: error: `{home}/.config/opencode/opencode.json` has been edited where qwenauth wrote it (above: - as written, + as it is now)\n\
         qwenauth: hint: use `--force` to remove it anyway\n";
    assert_eq!(outcome.stderr, expected);
    assert_eq!(machine.text(file), edited);
    machine.run(["setup", "opencode", "--remove", "--force"]).exits(0).any_stderr();
    let text = machine.text(file);
    assert!(!text.contains("qwenauth") && text.contains("own/best") && text.contains("// mine"), "{text}");
}

#[test]
fn edits_that_another_set_up_replaces_are_shown_and_kept() {
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home();
    machine.sets_up("codex");
    let edited = machine.text(file).replace("timeout_ms = ", "timeout_ms = 5 # slow disk, was ");
    assert!(edited.contains("slow disk"), "{edited}");
    let machine = machine.with(file, &edited);
    let outcome = machine.run(["setup", "codex"]).exits(0).any_stderr();
    let kept = ".codex/config.toml.qwenauth-edited-1";
    assert!(
        outcome.stderr.contains("+     \"timeout_ms\": 5\n")
            && outcome.stderr.contains(&format!("`{{home}}/{kept}` keeps them")),
        "{outcome}"
    );
    assert!(!machine.text(file).contains("slow disk"));
    assert_eq!((machine.text(kept), mode(&machine.home().join(kept))), (edited.clone(), 0o600));
    // A second version has a name of its own, and neither goes.
    let machine = machine.with(file, &edited);
    machine.run(["setup", "codex"]).exits(0).any_stderr();
    machine.removes("codex");
    let kept = |path: &&PathBuf| path.to_string_lossy().contains(".qwenauth-edited-");
    assert_eq!(machine.paths().iter().filter(kept).count(), 2);
}

#[test]
fn comments_in_what_another_set_up_would_write_again_stay() {
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home();
    machine.sets_up("codex");
    let commented = machine.text(file).replace("[model_providers.qwenauth]", "[model_providers.qwenauth] # mine");
    assert!(commented.contains("# mine"), "{commented}");
    let machine = machine.with(file, &commented);
    machine.run(["setup", "codex"]).exits(0).any_stderr();
    assert_eq!(machine.text(file), commented);
}

#[test]
fn the_plugin_goes_with_a_set_up_that_needs_none() {
    let plugin = ".config/opencode/plugin/qwenauth.js";
    let machine = Machine::new().at_home();
    machine.sets_up("opencode");
    assert!(machine.home().join(plugin).exists());
    machine.run(["setup", "opencode", "--gateway"]).exits(0).any_stderr();
    assert!(!machine.home().join(plugin).exists() && !machine.home().join(".config/opencode/.npmrc").exists());
    machine.removes("opencode");
    let machine = Machine::new().at_home();
    machine.sets_up("opencode");
    let edited = machine.text(plugin) + "// mine\n";
    let machine = machine.with(plugin, &edited);
    let outcome = machine.run(["setup", "opencode", "--gateway"]).exits(0).any_stderr();
    assert!(outcome.stderr.contains("qwenauth.js` has been edited and was kept"), "{outcome}");
    let outcome = machine.run(["setup", "opencode", "--remove"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("qwenauth.js` has been edited"), "{outcome}");
    assert_eq!(machine.text(plugin), edited);
}

#[test]
fn a_key_written_into_our_block_by_hand_is_not_shown() {
    let file = ".config/opencode/opencode.json";
    let machine = Machine::new().at_home();
    machine.sets_up("opencode");
    let edited = machine.text(file).replace("\"baseURL\"", "\"apiKey\": \"hunter2\", \"baseURL\"");
    let machine = machine.with(file, &edited);
    let outcome = machine.run(["setup", "opencode", "--remove"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("\"apiKey\": \"…\"") && !outcome.stderr.contains("hunter2"), "{outcome}");
}

#[test]
fn a_file_that_does_not_parse_is_not_changed_and_its_line_named() {
    for (tool, file, text, place) in [
        ("opencode", ".config/opencode/opencode.json", "{\n  \"a\": ,\n}\n", "line 2, column 8"),
        ("codex", ".codex/config.toml", "a = 1\nb = = 2\n", "line 2, column 5"),
        ("claude-code", ".claude/settings.json", "{\n  \"a\": 1\n", "line 1, column 1"),
        ("qwen-code", ".qwen/settings.json", "[]", "line 1, column 1"),
    ] {
        let machine = Machine::new().at_home().with(file, text);
        let outcome = machine.run(["setup", tool]).exits(1).any_stderr();
        let start = format!("qwenauth: error: `{{home}}/{file}`, {place}: ");
        assert!(outcome.stderr.starts_with(&start), "{outcome}");
        assert_eq!(machine.text(file), text);
        assert_eq!(machine.files(), [PathBuf::from(file)]);
    }
}

#[test]
fn a_symlink_stays_a_symlink_and_the_mode_stays() {
    let machine = Machine::new().at_home().with("dotfiles/codex.toml", MY_TOML);
    let target = machine.home().join("dotfiles/codex.toml");
    fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(machine.home().join(".codex")).unwrap();
    let link = machine.home().join(".codex/config.toml");
    symlink(&target, &link).unwrap();
    machine.sets_up("codex");
    assert!(link.is_symlink());
    assert_eq!(mode(&target), 0o640);
    assert!(machine.text("dotfiles/codex.toml").contains("model_providers.qwenauth"));
    let backup = machine.home().join("dotfiles/codex.toml.qwenauth-backup");
    assert_eq!(fs::read_to_string(&backup).unwrap(), MY_TOML);
    assert_eq!(mode(&backup), 0o600);
    machine.removes("codex");
    assert!(link.is_symlink() && !backup.exists());
    assert_eq!(machine.text("dotfiles/codex.toml"), MY_TOML);
    assert_eq!(mode(&target), 0o640);
}

#[test]
fn a_backup_is_private_also_where_an_older_one_was_not() {
    let backup = ".codex/config.toml.qwenauth-backup";
    let machine = Machine::new().at_home().with(".codex/config.toml", MY_TOML).with(backup, "older");
    let backup = machine.home().join(backup);
    fs::set_permissions(&backup, Permissions::from_mode(0o644)).unwrap();
    machine.sets_up("codex");
    assert_eq!((fs::read_to_string(&backup).unwrap().as_str(), mode(&backup)), (MY_TOML, 0o600));
}

#[test]
fn a_plugin_edited_by_hand_is_kept_unless_forced() {
    let file = ".config/opencode/plugin/qwenauth.js";
    let machine = Machine::new().at_home();
    machine.sets_up("opencode");
    let edited = machine.text(file) + "// mine\n";
    let machine = machine.with(file, &edited);
    let outcome = machine.run(["setup", "opencode", "--remove"]).exits(1).any_stderr();
    assert!(outcome.stderr.starts_with(&format!("  `{{home}}/{file}` has been edited\n")), "{outcome}");
    assert_eq!(machine.text(file), edited);
    machine.run(["setup", "opencode", "--remove", "--force"]).exits(0).any_stderr();
    assert_eq!(machine.paths(), Vec::<PathBuf>::new());
}

#[test]
fn an_empty_object_of_theirs_stays_empty() {
    let file = ".config/opencode/opencode.json";
    let machine = Machine::new().at_home().with(file, "{\n  \"provider\": {}\n}\n");
    machine.sets_up("opencode");
    let text = machine.text(file) + "\n";
    let machine = machine.with(file, &text);
    machine.removes("opencode");
    let left: Value = serde_json::from_str(&machine.text(file)).unwrap();
    assert_eq!(left, serde_json::json!({"provider": {}}));
}

#[test]
fn a_read_only_file_is_not_changed() {
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home().with(file, MY_TOML);
    fs::set_permissions(machine.home().join(file), Permissions::from_mode(0o444)).unwrap();
    machine.run(["setup", "codex"]).fails(
        1,
        "`{home}/.codex/config.toml` is read-only and was not changed",
        "make it writable (`chmod u+w`), or paste what `--print` shows",
    );
    assert_eq!(machine.text(file), MY_TOML);
}

#[test]
fn a_file_of_another_user_is_not_changed() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let file = ".codex/config.toml";
    let machine = Machine::new().at_home().with(file, MY_TOML).unprivileged();
    std::os::unix::fs::chown(machine.home().join(file), Some(0), Some(0)).unwrap();
    fs::set_permissions(machine.home().join(file), Permissions::from_mode(0o644)).unwrap();
    machine.run(["setup", "codex"]).fails(
        1,
        "`{home}/.codex/config.toml` belongs to another user (uid 0) and is not used",
        "check who should own it; if it is yours, `chown` it to yourself",
    );
    assert_eq!(machine.text(file), MY_TOML);
}

#[test]
fn a_disk_without_space_changes_nothing() {
    for (tool, _) in TOOLS {
        let Some(machine) = faulty("FAULT", &format!("fallocate:{}:.tmp", nix::libc::ENOSPC)) else { return };
        let outcome = machine.run(["setup", tool]).exits(1).any_stderr();
        assert!(outcome.stderr.starts_with("qwenauth: error: cannot prepare a new version of `{home}/"), "{outcome}");
        assert_eq!(machine.paths(), Vec::<PathBuf>::new(), "{tool}");
        let machine = machine.without_variable("FAULT");
        let list = machine.run(["setup", "--json"]).json();
        assert!(list["tools"].as_array().unwrap().iter().all(|tool| tool["profile"].is_null()), "{list}");
    }
}

#[test]
fn what_a_broken_disk_left_half_done_is_undone_by_removal() {
    let file = ".codex/config.toml";
    let Some(machine) = faulty("FAULT", &format!("write:{}:.tmp", nix::libc::EIO)) else { return };
    let noted = machine.home().join(".local/state/qwenauth/setup/codex.json");
    let machine = machine.with(file, MY_TOML).variable("FAULT_FROM", &noted);
    machine.run(["setup", "codex"]).exits(1).any_stderr();
    assert!(noted.exists(), "what will be written was not noted first");
    assert_eq!(machine.text(file), MY_TOML);
    let machine = machine.without_variable("FAULT");
    machine.removes("codex");
    assert_eq!(machine.text(file), MY_TOML);
    assert_eq!(machine.files(), [PathBuf::from(file)]);
}

#[test]
fn a_plugin_of_the_same_name_that_is_not_ours_is_not_changed() {
    let file = ".config/opencode/plugin/qwenauth.js";
    let machine = Machine::new().at_home().with(file, "export {}\n");
    machine.run(["setup", "opencode"]).fails(
        1,
        "`{home}/.config/opencode/plugin/qwenauth.js` already exists with different content",
        "move it away and run the same command again",
    );
    assert_eq!(machine.files(), [PathBuf::from(file)]);
}

#[test]
fn a_tool_that_is_not_installed_is_set_up_with_a_note() {
    let machine = Machine::new().at_home().variable("PATH", "/nonexistent");
    let outcome = machine.run(["setup", "opencode"]).exits(0).any_stderr();
    let expected = "qwenauth: opencode uses profile `qwen`, model `coder-model`: `{home}/.config/opencode/opencode.json`\n\
         qwenauth: `qwenauth setup opencode --remove` restores the previous configuration of opencode\n\
         qwenauth: `opencode` is not on `PATH`; the configuration applies once it is installed\n\
         qwenauth: requests go directly to the provider; `--gateway` adds retries and limits that all programs share\n";
    assert_eq!(outcome.stderr, expected);
}

#[test]
fn the_error_for_an_unknown_tool_names_the_nearest() {
    let machine = Machine::new();
    machine.run(["setup", "opencod"]).fails(2, "unknown tool `opencod`", "did you mean `opencode`?");
    let hint = "run `qwenauth setup` to list the tools; for any other program use `qwenauth exec -- PROGRAM`";
    machine.run(["setup", "vscode"]).fails(2, "unknown tool `vscode`", hint);
    machine.run(["setup", "vim"]).fails(
        2,
        "unknown tool `vim`",
        "run `qwenauth setup` to list the tools; for any other program use `qwenauth exec -- PROGRAM`",
    );
}

#[test]
fn without_a_login_nothing_is_written() {
    let machine = Machine::new();
    machine.run(["setup", "codex"]).fails(
        4,
        "not logged in: there is no credential for `qwen`",
        "run `qwenauth login`",
    );
    assert_eq!(machine.files(), Vec::<PathBuf>::new());
}

#[test]
fn the_key_command_names_the_profile_whose_host_is_written() {
    let machine = Machine::new().at_home();
    for (tool, file) in [("codex", ".codex/config.toml"), ("claude-code", ".claude/settings.json")] {
        machine.sets_up(tool);
        let text = machine.text(file);
        assert!(text.contains("--profile") && text.contains("qwen"), "{text}");
    }
    machine.sets_up("opencode");
    let plugin = machine.text(".config/opencode/plugin/qwenauth.js");
    assert!(plugin.contains(r#"= ["qwenauth","token","--profile","qwen"]"#), "{plugin}");
}

#[test]
fn with_a_gateway_the_key_is_a_reference_to_its_file() {
    let machine = Machine::new().at_home();
    let outcome = machine.run(["setup", "opencode", "--gateway"]).exits(0).any_stderr();
    let start = "qwenauth: start the gateway with `qwenauth gateway --profile qwen --listen 127.0.0.1:7936 --api-key-file {home}/.local/share/qwenauth/gateway-key`\n";
    assert!(outcome.stderr.ends_with(start), "{outcome}");
    let config: Value = serde_json::from_str(&machine.text(".config/opencode/opencode.json")).unwrap();
    let options = &config["provider"]["qwenauth"]["options"];
    assert_eq!(options["baseURL"], "http://127.0.0.1:7936/v1");
    let key = machine.home().join(".local/share/qwenauth/gateway-key");
    assert_eq!(options["apiKey"], format!("{{file:{}}}", key.display()));
    machine.run(["setup", "codex", "--gateway=127.0.0.1:9000"]).exits(0).any_stderr();
    let codex: toml::Table = machine.text(".codex/config.toml").parse().unwrap();
    assert_eq!(codex["model_providers"]["qwenauth"]["base_url"].as_str(), Some("http://127.0.0.1:9000/v1"));
    assert_eq!(codex["model_providers"]["qwenauth"]["auth"]["command"].as_str(), Some("cat"));
    assert!(!outcome.stdout.contains("npm") && !machine.home().join(".config/opencode/plugin").exists());
    machine.run(["setup", "qwen-code", "--gateway"]).fails(
        2,
        "Qwen Code reads its key from the environment, not from the gateway's key file",
        "run it with `qwenauth exec --gateway -- qwen`",
    );
}

#[test]
fn a_members_tool_is_set_up_for_the_teams_gateway_without_a_login() {
    let machine = Machine::new().at_home();
    fs::remove_file(machine.file()).unwrap();
    let team = ["--gateway-url", "https://qwen.corp.example/v1/", "--model", "m-1"];
    let outcome = machine.run([&["setup", "opencode"], &team[..]].concat()).exits(0).any_stderr();
    assert!(outcome.stderr.contains("uses the gateway at `https://qwen.corp.example/v1`, model `m-1`"), "{outcome}");
    assert!(
        outcome.stderr.ends_with("the key is taken from `QWENAUTH_TEAM_KEY` in the tool's environment\n"),
        "{outcome}"
    );
    let config: Value = serde_json::from_str(&machine.text(".config/opencode/opencode.json")).unwrap();
    let options = &config["provider"]["qwenauth"]["options"];
    assert_eq!(options["baseURL"], "https://qwen.corp.example/v1");
    assert_eq!(options["apiKey"], "{env:QWENAUTH_TEAM_KEY}");
    assert_eq!(config["model"], "qwenauth/m-1");
    machine.run([&["setup", "codex", "--key-file", "/run/secrets/key"], &team[..]].concat()).exits(0).any_stderr();
    let codex: toml::Table = machine.text(".codex/config.toml").parse().unwrap();
    assert_eq!(codex["model_providers"]["qwenauth"]["auth"]["command"].as_str(), Some("cat"));
    assert_eq!(codex["model_providers"]["qwenauth"]["auth"]["args"][0].as_str(), Some("/run/secrets/key"));
    machine.run([&["setup", "claude-code", "--key-env", "CORP_KEY"], &team[..]].concat()).exits(0).any_stderr();
    let claude: Value = serde_json::from_str(&machine.text(".claude/settings.json")).unwrap();
    assert_eq!(claude["apiKeyHelper"], "printenv CORP_KEY");
    assert_eq!(claude["env"]["ANTHROPIC_BASE_URL"], "https://qwen.corp.example");
    machine.run(["setup", "codex", "--gateway-url", "https://qwen.corp.example"]).fails(
        2,
        "`--gateway-url` requires a model",
        "name one with `--model ID`; the gateway lists its models at `/v1/models`",
    );
    let refused = machine.run(["setup", "codex", "--gateway-url", "http://qwen.corp.example", "--model", "m"]);
    assert!(refused.exits(2).any_stderr().stderr.contains("plain `http`"));
    let refused = machine.run([&["setup", "aider"], &team[..]].concat()).exits(2).any_stderr();
    assert!(refused.stderr.contains("qwenauth login team --base-url https://qwen.corp.example/v1"), "{refused}");
    machine.run(["setup", "aider", "--gateway-url", "https://qwen.corp.example/a;b", "--model", "m 1"]).fails(
        2,
        "`aider` reads the key and base URL from its environment, which `setup` cannot change",
        "run `qwenauth login team --base-url 'https://qwen.corp.example/a;b/v1' --model 'm 1' --api-key-stdin`, then \
         `qwenauth exec -- aider`",
    );
}

#[test]
fn the_gateways_key_is_in_no_file_and_no_printed_text() {
    let machine = Machine::new().at_home().with(".local/share/qwenauth/gateway-key", "key-of-the-gateway\n");
    let shown = |tool: &str| {
        let outcome = machine.run(["setup", tool, "--print", "--gateway"]).exits(0).any_stdout().any_stderr();
        outcome.stdout.clone() + &outcome.stderr
    };
    for tool in ["opencode", "codex", "llm", "crush", "continue", "zed", "cline"] {
        let text = shown(tool);
        assert!(text.contains("/gateway-key") && !text.contains("key-of-the-gateway"), "{tool}: {text}");
        assert!(text.contains("http://127.0.0.1:7936/v1"), "{tool}: {text}");
    }
    for tool in ["aider", "goose"] {
        let text = shown(tool);
        assert!(text.contains("exec --gateway --profile qwen -- ") && !text.contains("start the gateway"), "{text}");
    }
    for tool in ["opencode", "codex"] {
        machine.run(["setup", tool, "--gateway"]).exits(0).any_stderr();
    }
    for file in machine.files() {
        let text = machine.text(file.to_str().unwrap());
        assert!(!text.contains("key-of-the-gateway"), "{}", file.display());
    }
}

#[test]
fn print_shows_the_text_and_changes_nothing() {
    let machine = Machine::new().at_home();
    for (tool, file) in TOOLS {
        let outcome = machine.run(["setup", tool, "--print"]).exits(0).any_stdout().any_stderr();
        assert!(outcome.stdout.contains("coder-model"), "{outcome}");
        assert_eq!(outcome.stderr, format!("qwenauth: for `{{home}}/{file}`:\n"));
    }
    for (tool, place) in [
        ("aider", "the start-up file of your shell"),
        ("llm", "`{home}/.config/io.datasette.llm/extra-openai-models.yaml`"),
        ("crush", "`{home}/.config/crush/crush.json`"),
        ("goose", "the start-up file of your shell"),
        ("continue", "`{home}/.continue/config.yaml`"),
        ("zed", "`{home}/.config/zed/settings.json`"),
        ("cline", "`{home}/.cline/data/settings/providers.json`"),
    ] {
        let outcome = machine.run(["setup", tool, "--print"]).exits(0).any_stdout().any_stderr();
        assert!(outcome.stderr.starts_with(&format!("qwenauth: for {place}:\n")), "{outcome}");
        let shown = outcome.stdout.clone() + &outcome.stderr;
        assert!(
            ["token", "exec"].iter().any(|by| shown.contains(&format!("qwenauth {by} --profile qwen"))),
            "{outcome}"
        );
        assert!(!shown.contains("granted-"), "{outcome}");
        let alone = machine.run(["setup", tool]).exits(0).any_stdout().any_stderr();
        assert_eq!(alone.stdout, outcome.stdout);
        assert!(alone.stderr.contains(&format!(" must be configured manually: paste this into {place}\n")), "{alone}");
    }
    assert_eq!(machine.files(), Vec::<PathBuf>::new());
}

#[test]
fn the_list_says_what_is_installed_and_set_up() {
    let machine = Machine::new().at_home();
    machine.sets_up("codex");
    let list = machine.run(["setup", "--json"]).json();
    let codex = list["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "codex").unwrap();
    assert_eq!((&codex["profile"], &codex["installed"]), (&Value::from("qwen"), &Value::Null));
    let outcome = machine.run(["setup"]).any_stdout();
    assert!(outcome.stdout.contains("codex        no         profile qwen: {home}/.codex/config.toml\n"), "{outcome}");
    assert!(outcome.stdout.contains("aider        no         manually\n"), "{outcome}");
}

#[test]
fn removing_a_tool_that_was_never_set_up_succeeds_with_a_note() {
    let text = "qwenauth: Codex is not configured by qwenauth; nothing was changed\n";
    Machine::new().run(["setup", "codex", "--remove"]).exits(0).stderr(text);
}

/// What `npx`, `uvx` and the like start is removed afterwards: neither its path nor the name that only its `PATH` knows stays.
#[test]
fn setup_rejects_a_temporary_program_path() {
    for place in ["_npx/01/node_modules/@qwenauth/linux-x64/bin", "uv/archive-v0/xyz/bin", "bin"] {
        let machine = Machine::new().at_home();
        let directory = machine.directory().join(place);
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join("qwenauth");
        // By another process: a child forked meanwhile would hold our copy open for writing, and it could not run.
        assert!(Command::new("cp").arg(machine.program()).arg(&program).status().unwrap().success());
        let machine = machine.variable("PATH", &directory);
        let before = machine.paths();
        for (tool, _) in TOOLS {
            for arguments in [&["setup", tool][..], &["setup", tool, "--print"]] {
                let mut command = machine.other(&program);
                command.args(arguments);
                let outcome = machine.start(command).finish().exits(1).any_stderr();
                assert!(outcome.stderr.contains("hint: install qwenauth first"), "{place} {outcome}");
            }
        }
        assert_eq!(machine.paths(), before, "{place}");
        // The practice one goes away as well: the tour shows the whole way.
        let mut tour = machine.other(&program);
        tour.args(["sandbox", "--tour"]);
        let _ = machine.start(tour).finish().exits(0).any_stdout().any_stderr();
    }
}
