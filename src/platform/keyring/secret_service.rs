//! The Secret Service of freedesktop.org over D-Bus: GNOME Keyring, `KWallet`, `KeePassXC`.
//!
//! Secrets cross the bus as they are ("plain" sessions): its socket is open to this user alone, and whoever runs as this
//! user may ask the service itself.

use std::time::Instant;

use zeroize::Zeroizing;

use super::dbus::{Connection, Method, NoAnswer, Reader, Values};
use super::{DIALOG_TIMEOUT, Entry, TIMEOUT, Trouble, has_person};
use crate::error::note;

pub(crate) const NAME: &str = "the Secret Service";

/// The specification has no limit. More than this is no credential.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;

const SERVICE: Method = Method {
    destination: "org.freedesktop.secrets",
    path: "/org/freedesktop/secrets",
    interface: "org.freedesktop.Secret.Service",
    name: "",
};

/// The path that means none.
const NONE: &str = "/";

pub(super) fn read(entry: Entry) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    let mut service = Service::open()?;
    let Some(item) = service.items(entry)?.into_iter().next() else { return Ok(None) };
    match service.secret(&item) {
        // Locked between the two.
        Err(Trouble::Locked) => {
            service.unlock(&item)?;
            service.secret(&item).map(Some)
        }
        secret => secret.map(Some),
    }
}

pub(super) fn write(entry: Entry, secret: &[u8]) -> Result<(), Trouble> {
    let mut service = Service::open()?;
    let collection = service.default_collection()?;
    match service.create(&collection, entry, secret) {
        Err(Trouble::Locked) => {
            service.unlock(&collection)?;
            service.create(&collection, entry, secret)
        }
        created => created,
    }
}

pub(super) fn remove(entry: Entry) -> Result<(), Trouble> {
    let mut service = Service::open()?;
    for item in service.items(entry)? {
        let interface = "org.freedesktop.Secret.Item";
        let method = Method { path: &item, interface, name: "Delete", ..SERVICE };
        let prompt = service.call(method, &Values::new(""), "o")?.text()?;
        service.answer_prompt(&prompt)?;
    }
    Ok(())
}

/// A session with the service.
struct Service {
    bus: Connection,
    session: String,
}

impl From<NoAnswer> for Trouble {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::NoBus(why) => Self::Missing(why),
            NoAnswer::TimedOut => Self::Silent,
            NoAnswer::Broken(why) => Self::Failed(why),
            NoAnswer::Error(name) => match name.as_str() {
                "org.freedesktop.Secret.Error.IsLocked" => Self::Locked,
                "org.freedesktop.DBus.Error.NoReply"
                | "org.freedesktop.DBus.Error.Timeout"
                | "org.freedesktop.DBus.Error.TimedOut" => Self::Silent,
                "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                    Self::Missing("no Secret Service runs on the session bus".into())
                }
                name if name.starts_with("org.freedesktop.DBus.Error.Spawn.") => {
                    Self::Missing("the Secret Service does not start".into())
                }
                name => Self::Failed(format!("it answered `{name}`")),
            },
        }
    }
}

impl Service {
    fn open() -> Result<Self, Trouble> {
        let deadline = Instant::now() + TIMEOUT;
        let mut service = Self { bus: Connection::open(deadline)?, session: String::new() };
        let mut values = Values::new("sv");
        values.text("plain").variant("s").text("");
        let mut answer = service.call(Method { name: "OpenSession", ..SERVICE }, &values, "vo")?;
        if answer.signature()? != "s" {
            return Err(Trouble::Failed("it does not support unencrypted sessions".into()));
        }
        answer.text()?;
        service.session = answer.text()?;
        Ok(service)
    }

    fn call(&mut self, method: Method, values: &Values, signature: &str) -> Result<Reader, Trouble> {
        Ok(self.bus.call(method, values, signature, Instant::now() + TIMEOUT)?)
    }

    /// The items of this name, unlocked.
    fn items(&mut self, entry: Entry) -> Result<Vec<String>, Trouble> {
        let mut values = Values::new("a{ss}");
        values.dictionary(&attributes(entry));
        let mut answer = self.call(Method { name: "SearchItems", ..SERVICE }, &values, "aoao")?;
        let (mut unlocked, locked) = (answer.texts()?, answer.texts()?);
        for item in locked {
            self.unlock(&item)?;
            unlocked.push(item);
        }
        Ok(unlocked)
    }

    fn secret(&mut self, item: &str) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let method = Method { path: item, interface: "org.freedesktop.Secret.Item", name: "GetSecret", ..SERVICE };
        let mut values = Values::new("o");
        values.text(&self.session);
        let mut answer = self.call(method, &values, "(oayays)")?;
        answer.structure()?.text()?;
        answer.bytes()?;
        Ok(answer.bytes()?)
    }

    fn default_collection(&mut self) -> Result<String, Trouble> {
        let mut values = Values::new("s");
        values.text("default");
        let collection = self.call(Method { name: "ReadAlias", ..SERVICE }, &values, "o")?.text()?;
        if collection == NONE {
            return Err(Trouble::Missing("the Secret Service has no default collection".into()));
        }
        Ok(collection)
    }

    fn create(&mut self, collection: &str, entry: Entry, secret: &[u8]) -> Result<(), Trouble> {
        let mut values = Values::new("a{sv}(oayays)b");
        values.array(8, |values| {
            let label = format!("qwenauth: {}", entry.profile);
            values.structure().text("org.freedesktop.Secret.Item.Label").variant("s").text(&label);
            values.structure().text("org.freedesktop.Secret.Item.Attributes").variant("a{ss}");
            let mut all = attributes(entry).to_vec();
            all.push(("xdg:schema", "org.freedesktop.Secret.Generic"));
            values.dictionary(&all);
        });
        values.structure().text(&self.session).bytes(b"").bytes(secret).text("text/plain");
        values.boolean(true);
        let interface = "org.freedesktop.Secret.Collection";
        let method = Method { path: collection, interface, name: "CreateItem", ..SERVICE };
        let mut answer = self.call(method, &values, "oo")?;
        answer.text()?;
        let prompt = answer.text()?;
        self.answer_prompt(&prompt)
    }

    fn unlock(&mut self, object: &str) -> Result<(), Trouble> {
        if !has_person() {
            return Err(Trouble::Locked);
        }
        let mut values = Values::new("ao");
        values.array(4, |values| {
            values.text(object);
        });
        announce_dialog();
        let mut answer = self.call(Method { name: "Unlock", ..SERVICE }, &values, "aoo")?;
        answer.texts()?;
        let prompt = answer.text()?;
        self.answer_prompt(&prompt)
    }

    /// Shows the prompt of the service to the user, if there is one.
    fn answer_prompt(&mut self, prompt: &str) -> Result<(), Trouble> {
        if prompt == NONE {
            return Ok(());
        }
        let method = Method { path: prompt, interface: "org.freedesktop.Secret.Prompt", name: "", ..SERVICE };
        if !has_person() {
            // It would wait for good.
            let _ = self.call(Method { name: "Dismiss", ..method }, &Values::new(""), "");
            return Err(Trouble::Locked);
        }
        let deadline = Instant::now() + DIALOG_TIMEOUT;
        self.bus.listen("type='signal',interface='org.freedesktop.Secret.Prompt',member='Completed'", deadline)?;
        let mut window = Values::new("s");
        window.text("");
        self.call(Method { name: "Prompt", ..method }, &window, "")?;
        match self.bus.signal(prompt, "Completed", deadline) {
            Ok(mut completed) => {
                let is_dismissed = completed.boolean()?;
                if is_dismissed { Err(Trouble::Denied) } else { Ok(()) }
            }
            Err(NoAnswer::TimedOut) => {
                let _ = self.call(Method { name: "Dismiss", ..method }, &Values::new(""), "");
                Err(Trouble::NotUnlocked)
            }
            Err(no_answer) => Err(no_answer.into()),
        }
    }
}

/// What an item is found by, here and with `secret-tool lookup service qwenauth profile NAME`.
fn attributes(entry: Entry<'_>) -> [(&str, &str); 3] {
    [("service", "qwenauth"), ("profile", entry.profile), ("entry", entry.name)]
}

/// Says what the dialog is for that opens now.
fn announce_dialog() {
    note(&format!("the keyring is locked; unlock it in its dialog within {} s", DIALOG_TIMEOUT.as_secs()));
}
