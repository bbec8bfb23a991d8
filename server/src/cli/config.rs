//! `synod config`: check a settings file, print the default one.
//!
//! Owns reading a settings file, for this command and for `synod server`. Must never define a setting itself.

use std::path::Path;

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::{CliError, Exit, Result};
use super::output::text;
use crate::config::Settings;

/// `config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether `synod server --config FILE` would take this file
    Check {
        /// The file
        file: String,
    },
    /// Print every setting with its default, as a settings file
    Default,
}

/// Runs `config`.
pub fn run(context: &mut Context, args: ConfigArgs) -> Result<()> {
    match args.command {
        ConfigCommand::Check { file } => {
            read(Path::new(&file))?;
            let done = serde_json::json!({ "file": file, "ok": true });
            context.out.value(&done, |_| vec![format!("{}: ok", text::path(&file))])
        }
        ConfigCommand::Default => {
            let settings = Settings::default();
            let text = toml::to_string(&settings)
                .map_err(|error| CliError::failed("internal", format!("cannot write the settings: {error}")))?;
            context.out.value(&settings, |_| text.lines().map(str::to_owned).collect())
        }
    }
}

/// Reads and checks a settings file; an error names the file, the line and the knob.
pub fn read(file: &Path) -> Result<Settings> {
    let shown = text::path(&file.display().to_string());
    let text = std::fs::read_to_string(file).map_err(|error| CliError::io(&shown, &error))?;
    parse(&text).map_err(|(line, why)| {
        let place = line.map_or_else(|| shown.clone(), |line| format!("{shown}:{line}"));
        let error = CliError::failed("invalid_config", format!("{place}: {why}")).exiting(Exit::Usage);
        let error = error.with("file", file.display().to_string()).with("why", why);
        match line {
            Some(line) => error.with("line", line),
            None => error,
        }
    })
}

pub(super) fn parse(text: &str) -> std::result::Result<Settings, (Option<usize>, String)> {
    let settings: Settings = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        (line, error.message().to_owned())
    })?;
    settings.check().map_err(|why| (None, why))?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_passes_its_own_check() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert!(parse(&text).is_ok(), "{text}");
        assert!(parse("").is_ok());
    }

    #[test]
    fn unknown_and_wrong_settings_name_their_line() {
        let (line, why) = parse("[timing]\n\nno_such_knob = 1\n").unwrap_err();
        assert_eq!(line, Some(3), "{why}");
        assert!(why.contains("no_such_knob"), "{why}");
        assert_eq!(parse("a = [\n").unwrap_err().0, Some(1));
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let (_, why) = parse("[timing]\npulse_ms = 1\n").unwrap_err();
        assert!(why.contains("timing.pulse_ms = 1"), "{why}");
    }
}
