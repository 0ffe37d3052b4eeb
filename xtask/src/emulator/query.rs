//! Commands whose success is taken for granted, and what they print as data.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::Machine;

impl Machine {
    /// Carries out a command that has to succeed; gives what it printed.
    pub fn succeed(&mut self, line: &str) -> Result<String> {
        let reply = self.command(line)?;
        if reply.status != 0 {
            bail!("`{line}` ended with status {}: {}", reply.status, reply.text.trim());
        }
        Ok(reply.text)
    }

    /// Carries out a command with `--json` and reads what it printed.
    pub fn query<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        let text = self.succeed(line)?;
        // A notice of something that happened meanwhile may stand beside it.
        let found = text.lines().find_map(|line| serde_json::from_str(line).ok());
        found.with_context(|| format!("`{line}` printed something unexpected: {}", text.trim()))
    }
}
