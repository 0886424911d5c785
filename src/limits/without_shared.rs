//! In place of `shared/` in a program that is built without the feature `team`: there is no server, and whoever names one
//! is told why.
//!
//! Nothing of it can exist, so the compiler removes what would use it.

#![expect(clippy::needless_pass_by_value, clippy::unused_async, reason = "as in `shared/`, where more is done")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustls::ClientConfig;

use super::engine::{self, AccountWindows, Demand, Grant, Left, Unavailable, Used};
pub(crate) use super::together::{
    Counted, GONE_AFTER, Health, KeyStanding, KeysHere, Kind, Limit, Looked, OnLoss, Outcome, Row, SPREAD, Settlement,
    SharedAccount, SharedDecision, Sums, TIMEOUT, Watched, name_of_day,
};
use crate::error::{Failed, Failure};
use crate::keys::{KeyRecord, Publication, TeamSecret};
use crate::secret::Secret;

#[derive(Debug, Clone)]
pub(crate) struct Address(Infallible);

/// Errors: always.
pub(crate) fn available() -> Result<()> {
    missing().err()
}

fn missing() -> Failed {
    Failed::new(
        Failure::Usage,
        "`--shared` and `[team] shared` require the feature `team`, and this program was built without it",
    )
    .hint("install a release, or build with `--features team`")
}

impl Address {
    /// Errors: always.
    pub(crate) fn parse(_: &str, _: Option<PathBuf>, _: Duration) -> Result<Self> {
        missing().err()
    }

    pub(crate) fn shown(&self) -> String {
        match self.0 {}
    }

    pub(crate) fn password(&self) -> Result<Option<Secret>> {
        match self.0 {}
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn is_local(&self) -> bool {
        match self.0 {}
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Where {
    pub(crate) address: Address,
    pub(crate) namespace: String,
    pub(crate) on_loss: OnLoss,
}

impl Where {
    pub(crate) fn check(&self, _: ClientConfig, _: Option<&KeysHere>) -> Result<()> {
        match self.address.0 {}
    }

    pub(crate) fn foreign_host(&self, _: ClientConfig, _: Option<&str>) -> Result<Option<String>> {
        match self.address.0 {}
    }

    pub(crate) fn publish(
        &self,
        _: ClientConfig,
        _: &Publication,
        _: Option<&str>,
        _: &[(u64, String)],
    ) -> Result<Outcome> {
        match self.address.0 {}
    }

    pub(crate) fn standings(&self, _: ClientConfig, _: &[&KeyRecord]) -> Result<Vec<KeyStanding>> {
        match self.address.0 {}
    }

    pub(crate) fn counted(&self, _: ClientConfig, _: &[SharedAccount]) -> Result<Vec<Counted>> {
        match self.address.0 {}
    }

    pub(crate) fn usage(
        &self,
        _: ClientConfig,
        _: &[String],
    ) -> Result<(BTreeMap<Row, Sums>, BTreeMap<String, String>)> {
        match self.address.0 {}
    }
}

pub(crate) struct Shared(Infallible);

impl Shared {
    pub(crate) fn new(place: Where, _: ClientConfig) -> Rc<Self> {
        match place.address.0 {}
    }

    pub(crate) fn health(&self) -> Health {
        match self.0 {}
    }

    pub(crate) fn now(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn count(&self, _: &str) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) async fn begin(&self) {
        match self.0 {}
    }

    pub(crate) async fn maintain(self: Rc<Self>) {
        match self.0 {}
    }

    pub(crate) async fn settle_all(&self) {
        match self.0 {}
    }

    pub(crate) async fn send_final_reports(&self) {
        match self.0 {}
    }

    pub(crate) fn enter(&self, _: Row, _: impl IntoIterator<Item = (&'static str, u64)>) {
        match self.0 {}
    }

    pub(crate) async fn admit(&self, _: impl Fn(u64) -> Vec<Limit> + 'static, _: Duration) -> SharedDecision {
        match self.0 {}
    }

    pub(crate) fn end(&self, _: String, _: Settlement) {
        match self.0 {}
    }

    pub(crate) fn token_of(&self, _: &str) -> SharedToken {
        match self.0 {}
    }
}

pub(crate) struct SharedToken(Infallible);

impl SharedToken {
    pub(crate) async fn publish(self, _: u64, _: &str, _: u64) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) async fn watch(self, _: &str, _: &str) -> Option<Watched> {
        match self.0 {}
    }

    pub(crate) async fn look(self, _: u64) -> Option<Looked> {
        match self.0 {}
    }

    pub(crate) async fn want(self, _: u64) -> Option<u64> {
        match self.0 {}
    }
}

pub(crate) struct SharedKeys(Infallible);

impl SharedKeys {
    pub(crate) fn open(shared: &Rc<Shared>, _: &Path, _: &TeamSecret) -> Result<Self> {
        match shared.0 {}
    }

    pub(crate) fn now(&self) -> SystemTime {
        match self.0 {}
    }

    pub(crate) fn use_secret(&self, _: &TeamSecret) {
        match self.0 {}
    }

    pub(crate) fn secret_differs(&self) -> bool {
        match self.0 {}
    }

    pub(crate) async fn look_up(&self, _: &str, _: bool) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self.0 {}
    }

    pub(crate) async fn find(&self, _: &str) -> Result<Option<Rc<KeyRecord>>, Unavailable> {
        match self.0 {}
    }

    pub(crate) async fn admit(&self, _: &Demand, _: Option<&AccountWindows>) -> engine::KeyDecision {
        match self.0 {}
    }

    pub(crate) fn give_back(&self, _: &Grant, _: bool) {
        match self.0 {}
    }

    pub(crate) fn settle(&self, _: &Grant, _: Used) {
        match self.0 {}
    }

    pub(crate) async fn left(&self, _: &Rc<KeyRecord>) -> Left {
        match self.0 {}
    }

    pub(crate) async fn left_of_each(&self, _: &[Rc<KeyRecord>]) -> Vec<Left> {
        match self.0 {}
    }

    pub(crate) fn records(&self) -> Vec<Rc<KeyRecord>> {
        match self.0 {}
    }
}
