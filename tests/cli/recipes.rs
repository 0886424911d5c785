//! docs/recipes.md as it stands: its lines are taken from the page and run by the programs they are for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::json_fields::assert_listed;
use crate::keys::{KEY, knows_the_key};
use crate::login::device_code;
use crate::machine::{Machine, possible};
use crate::openrouter;
use crate::run::Outcome;
use crate::server::{Ask, Reply};

/// The code blocks below a heading: language and text.
#[track_caller]
fn blocks(heading: &str) -> Vec<(String, String)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading)).expect("no such heading");
    let fenced = section.split("```").skip(1).step_by(2);
    let blocks: Vec<_> = fenced
        .map(|block| {
            let (language, text) = block.split_once('\n').unwrap();
            (language.to_owned(), text.to_owned())
        })
        .collect();
    assert!(!blocks.is_empty(), "{heading} has no code");
    blocks
}

#[track_caller]
fn block(heading: &str, language: &str) -> String {
    let found = blocks(heading).into_iter().find(|(named, _)| named == language);
    found.unwrap_or_else(|| panic!("{heading} has no {language}")).1
}

impl Machine {
    /// With `qwenauth` on the `PATH`, beside these scripts.
    pub(crate) fn with_programs(self, scripts: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let bin = self.directory().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(self.program(), bin.join("qwenauth")).unwrap();
        for (name, script) in scripts {
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        self.variable("PATH", path)
    }

    /// As a step of GitHub's runner: `bash -e FILE`.
    fn bash_e(&self, script: &str, variables: &BTreeMap<String, String>, directory: &Path) -> Outcome {
        let file = self.directory().join("step.sh");
        fs::write(&file, script).unwrap();
        let mut bash = self.other("bash");
        bash.arg("-e").arg(file).envs(variables).current_dir(directory);
        self.start(bash).finish()
    }
}

/// A job of a workflow, as far as the recipe uses one.
#[derive(Default)]
struct Job {
    variables: BTreeMap<String, String>,
    steps: Vec<Step>,
}

#[derive(Default)]
struct Step {
    run: String,
    variables: BTreeMap<String, String>,
}

impl Job {
    /// Reads the recipe's YAML, by its indentation, with what the runner fills in for `${{ … }}`.
    fn read(yaml: &str, temp: &Path, secrets: &BTreeMap<&str, &str>) -> Self {
        let mut job = Self::default();
        for line in yaml.lines() {
            let indent = line.len() - line.trim_start().len();
            let (key, value) = line.trim().split_once(':').unwrap();
            let value = expression(value.trim(), temp, secrets);
            match (indent, key) {
                (0, "jobs") | (2, "ask") | (4, "runs-on" | "env" | "steps") | (8, "env") => {}
                (6, "- run") => job.steps.push(Step { run: value, ..Step::default() }),
                (6, name) => drop(job.variables.insert(name.to_owned(), value)),
                (10, name) => drop(job.steps.last_mut().unwrap().variables.insert(name.to_owned(), value)),
                _ => panic!("what is this: {line}"),
            }
        }
        assert!(job.steps.len() > 2);
        job
    }
}

fn expression(value: &str, temp: &Path, secrets: &BTreeMap<&str, &str>) -> String {
    let Some((before, rest)) = value.split_once("${{ ") else { return value.to_owned() };
    let (named, after) = rest.split_once(" }}").unwrap();
    let filled = match named.split_once('.').unwrap() {
        ("runner", "temp") => temp.to_str().unwrap(),
        // One that is not set is empty.
        ("secrets", name) => secrets.get(name).copied().unwrap_or_default(),
        _ => panic!("what is this: {named}"),
    };
    format!("{before}{filled}{after}")
}

/// What a job leaves: the log with what was masked masked, and how its last step ended.
struct Ran {
    log: String,
    steps: usize,
    code: Option<i32>,
}

/// An empty home, a provider that knows the key, and `python`, which says what it was started with.
fn runner() -> (Machine, PathBuf) {
    let python =
        "#!/bin/sh\nprintf '%s\\n' \"python $*\" \"$OPENAI_BASE_URL\" \"$OPENAI_MODEL\" \"key $OPENAI_API_KEY\"\n";
    let machine = knows_the_key(Machine::new().with_programs(&[("python", python)]), "/intl/v1/models");
    let temp = machine.directory().join("_temp");
    let config = temp.join("qwenauth/config");
    fs::create_dir_all(&config).unwrap();
    let region = format!("[providers.dashscope]\nregions.intl.base_url = \"{}/intl/v1\"\n", machine.server.url());
    fs::write(config.join("config.toml"), region).unwrap();
    (machine, temp)
}

/// Runs the recipe's job as GitHub's runner does.
fn ran(machine: &Machine, temp: &Path, secrets: &BTreeMap<&str, &str>) -> Ran {
    let job = Job::read(&block("GitHub Actions", "yaml"), temp, secrets);
    let workspace = machine.directory().join("work");
    fs::create_dir_all(&workspace).unwrap();
    let file = temp.join("set_env");
    fs::write(&file, "").unwrap();
    let mut variables = job.variables;
    for (name, value) in [("GITHUB_ACTIONS", "true"), ("CI", "true"), ("GITHUB_ENV", file.to_str().unwrap())] {
        variables.insert(name.into(), value.into());
    }
    let mut masks: Vec<String> = secrets.values().map(|&secret| secret.to_owned()).collect();
    let (mut log, mut steps, mut code) = (String::new(), 0, Some(0));
    for step in job.steps {
        let mut own = variables.clone();
        own.extend(step.variables);
        let outcome = machine.bash_e(&step.run, &own, &workspace).any_stdout().any_stderr();
        steps += 1;
        for line in outcome.stderr.lines().chain(outcome.stdout.lines()) {
            if let Some(mask) = line.strip_prefix("::add-mask::") {
                masks.push(mask.replace("%25", "%"));
                continue;
            }
            log += &masks.iter().fold(line.to_owned(), |line, mask| line.replace(mask, "***"));
            log.push('\n');
        }
        for line in fs::read_to_string(&file).unwrap().lines() {
            let (name, value) = line.split_once('=').expect("not a line that the runner reads");
            variables.insert(name.into(), value.into());
        }
        fs::write(&file, "").unwrap();
        code = outcome.code();
        drop(outcome.exits(code.unwrap()));
        if code != Some(0) {
            break;
        }
    }
    Ran { log, steps, code }
}

#[test]
fn the_job_for_github_hands_the_key_to_its_last_step_and_shows_it_nowhere() {
    let (machine, temp) = runner();
    let ran = ran(&machine, &temp, &[("DASHSCOPE_API_KEY", KEY)].into());
    let told = format!(
        "qwenauth: logged in to Alibaba Cloud Model Studio (intl), profile `dashscope` (active)\n\
         python client.py\n{{server}}/intl/v1\n{}\nkey ***\n",
        machine
            .shell("QWENAUTH_HOME=$PWD/_temp/qwenauth $QWENAUTH env --format json | sed 's/.*MODEL\":\"//; s/\".*//'")
            .any_stdout()
            .stdout
            .trim()
    );
    assert_eq!((ran.code, ran.log), (Some(0), told));
    assert!(fs::read_dir(machine.home()).unwrap().next().is_none(), "something was written into the home");
    fs::remove_dir_all(temp).unwrap();
}

#[test]
fn the_job_for_github_ends_at_a_missing_or_rejected_key() {
    for (secrets, code, said) in [
        (BTreeMap::new(), 2, "the variable `DASHSCOPE_API_KEY` is empty"),
        ([("DASHSCOPE_API_KEY", "granted-key-of-another")].into(), 4, "rejected the key"),
    ] {
        let (machine, temp) = runner();
        let ran = ran(&machine, &temp, &secrets);
        assert_eq!((ran.code, ran.steps), (Some(code), 1), "{}", ran.log);
        assert!(ran.log.contains(said) && !ran.log.contains("granted-"), "{}", ran.log);
        fs::remove_dir_all(temp).unwrap();
    }
}

/// A step that prints the variables when there is no login must fail, or the next would run without a key.
#[test]
fn the_jobs_step_that_sets_the_variables_fails_without_a_login() {
    let (machine, temp) = runner();
    let job = Job::read(&block("GitHub Actions", "yaml"), &temp, &BTreeMap::new());
    let step = job.steps.iter().find(|step| step.run.contains("GITHUB_ENV")).unwrap();
    let file = temp.join("set_env");
    let variables = [("GITHUB_ACTIONS", "true"), ("GITHUB_ENV", file.to_str().unwrap())];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    drop(machine.bash_e(&step.run, &variables, &temp).exits(4).any_stderr());
    assert_eq!(fs::read_to_string(file).unwrap(), "");
}

#[test]
fn direnv_sets_the_variables_on_entering_and_unsets_them_on_leaving() {
    if !possible(Command::new("direnv").arg("version").output().is_ok(), "run direnv") {
        return;
    }
    let machine = Machine::new().logged_in().with_programs(&[]);
    let project = machine.directory().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join(".envrc"), block("direnv", "sh")).unwrap();
    let script = r#"
        cd project; direnv allow 2>/dev/null
        eval "$(direnv export bash 2>/dev/null)"; echo "in: $OPENAI_API_KEY $OPENAI_BASE_URL"
        cd ..; eval "$(direnv export bash 2>/dev/null)"; echo "out: ${OPENAI_API_KEY-none}""#;
    let mut bash = machine.other("bash");
    bash.args(["-c", script]);
    machine.start(bash).finish().stdout("in: granted-access-1 {server}/v1\nout: none\n");
    // What is asked again is fresh: the page names `direnv reload`.
    let machine = machine.credential_is(crate::machine::credential("2"));
    let script = "cd project; direnv reload; direnv exec . sh -c 'echo $OPENAI_API_KEY'";
    machine.shell(script).any_stderr().stdout("granted-access-2\n");
    fs::remove_dir_all(machine.home().join(".local/share/direnv")).unwrap();
}

/// mise is no package of Debian: it is tried where it is there.
#[test]
fn mise_sources_the_variables_and_runs_the_task() {
    let found = Command::new("sh").args(["-c", "command -v mise"]).output().unwrap();
    let mise = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    if mise.is_empty() {
        println!("skipped: mise is not installed");
        return;
    }
    let python = "#!/bin/sh\nprintf '%s\\n' \"python $*\" \"key $OPENAI_API_KEY\"\n";
    let machine = Machine::new().logged_in().with_programs(&[("python", python)]);
    let project = machine.directory().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("mise.toml"), block("mise", "toml")).unwrap();
    fs::write(project.join("qwenauth-env.sh"), block("mise", "sh")).unwrap();
    let machine = machine.variable("MISE", mise);
    let script = "cd project; $MISE trust >/dev/null 2>&1; $MISE exec -- sh -c 'echo $OPENAI_API_KEY'; $MISE run hello";
    machine.shell(script).any_stderr().stdout("granted-access-1\npython client.py\nkey granted-access-1\n");
}

#[test]
fn an_agent_logs_a_user_in_with_the_commands_of_the_page() {
    let machine = openrouter::machine().with_programs(&[]);
    let blocks = blocks("An agent that logs a user in");
    let [(_, begin), (_, complete)] = &blocks[..] else { panic!("the recipe has other commands now") };
    let mut begun = machine.bash_e(begin, &BTreeMap::new(), machine.directory()).any_stderr();
    let event = begun.json();
    assert_eq!(event["event"], "authorize_url");
    let code = BTreeMap::from([("CODE".to_owned(), "granted-code".to_owned())]);
    let mut completed = machine.bash_e(complete, &code, machine.directory()).any_stderr();
    let events = completed.json_lines();
    assert_eq!(events.last().unwrap()["event"], "logged_in");
    assert_listed("login --json", "authorize_url", &event);
    assert_listed("login --json", "logged_in", events.last().unwrap());
    assert_eq!(machine.profile("openrouter")["api_key"], openrouter::KEY);
}

/// A page that says `shows the same code and starts no other` is held to it.
#[test]
fn a_second_login_of_an_agent_shows_the_same_code() {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({"interval": 60})));
    let event = |machine: &Machine| {
        let mut event = machine.run(["login", "--no-wait", "--json"]).any_stderr().json();
        // The clock of a joined login is the notes' own, to the second.
        event.as_object_mut().unwrap().shift_remove("expires_at");
        event
    };
    assert_eq!(event(&machine), event(&machine));
    fs::remove_file(machine.home().join(".local/state/qwenauth/pending/qwen.json")).unwrap();
}

#[test]
fn a_tool_is_set_up_with_the_commands_of_the_page() {
    let machine = Machine::new().logged_in().field("resource_url", json!("{server}")).with_programs(&[]);
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    let script = block("Set up a tool", "sh");
    let outcome = machine.bash_e(&script, &BTreeMap::new(), machine.directory()).exits(0).any_stdout().any_stderr();
    assert!(outcome.stdout.contains("opencode"), "{outcome}");
    assert!(machine.home().join(".config/opencode/opencode.json").exists());
    assert!(!machine.home().join(".codex/config.toml").exists(), "what was removed was never written");
}
