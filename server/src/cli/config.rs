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

/// Settings without a fixed default: what each is where it is not set depends on the disk.
const OF_THE_DISK: &str = "\
# disk_low = \"1.0 GiB\"       # a tenth of a small disk; not set, it rises with what compactions need
# disk_hard = \"256.0 MiB\"    # a fortieth of the disk where that is less
# disk_reserve = \"128.0 MiB\" # a fiftieth of the disk where that is less
";

/// Every setting with its default, as a settings file.
fn default_file() -> std::result::Result<String, toml::ser::Error> {
    let header = "[storage]\n";
    let text = toml::to_string(&Settings::default())?;
    Ok(text.replacen(header, &format!("{header}{OF_THE_DISK}"), 1))
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
            let text = default_file()
                .map_err(|error| CliError::failed("internal", format!("cannot write the settings: {error}")))?;
            context.out.value(&Settings::default(), |_| text.lines().map(str::to_owned).collect())
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
        let text = default_file().unwrap();
        assert!(parse(&text).is_ok(), "{text}");
        // Those that depend on the disk are shown as comments, and can be taken as they are.
        for knob in ["disk_low", "disk_hard", "disk_reserve"] {
            assert!(text.contains(&format!("\n# {knob} = \"")), "{text}");
        }
        let set = parse(&text.replace("# disk_", "disk_")).unwrap().storage;
        assert!(set.disk_low.is_some() && set.disk_hard.is_some() && set.disk_reserve.is_some());
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
        let (_, why) = parse("[node]\nzone = \"a b\"\n").unwrap_err();
        assert!(why.starts_with("node.zone may have letters"), "{why}");
        assert_eq!(parse("[node]\nzone = \"eu-1a\"\n").unwrap().node.zone, "eu-1a");
    }

    #[test]
    fn a_dead_node_is_waited_for_as_long_as_is_said_or_for_ever() {
        let grace = |text: &str| {
            let parsed = parse(&format!("[balance]\ndead_grace = \"{text}\"\n"));
            parsed.map(|settings| settings.balance.dead_grace.0.map(|time| time.as_secs()))
        };
        assert_eq!((grace("5s"), grace("2h"), grace("off")), (Ok(Some(5)), Ok(Some(7_200)), Ok(None)));
        assert_eq!(Settings::default().balance.dead_grace.0.map(|time| time.as_secs()), Some(600));
        assert!(default_file().unwrap().contains("dead_grace = \"10m\""));
        for bad in ["0s", "31days", "soon", ""] {
            let (_, why) = grace(bad).unwrap_err();
            assert!(why.contains("balance.dead_grace") && why.contains("from 1s to 30days"), "{why}");
        }
    }
}
