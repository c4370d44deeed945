//! Installing, starting, stopping and removing the service.

use std::{
    env,
    ffi::OsString,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use windows_service::{
    service::{
        Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl,
        ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
        ServiceStartType, ServiceState, ServiceStatus, ServiceType,
    },
    service_manager::{ServiceManager, ServiceManagerAccess},
};

use super::{NAME, directory, event_log};

const DESCRIPTION: &str = "Watches a running service from the kernel and says which of its tasks is slowly getting worse.";

/// Codes of the system.
const ACCESS_DENIED: i32 = 5;
const DOES_NOT_EXIST: i32 = 1_060;
const INVALID_LEVEL: i32 = 124;

/// What a service reports that was not started since Windows was.
const NEVER_STARTED: ServiceExitCode = ServiceExitCode::Win32(1_077);

/// After a failure, how long until the service is started again: the first time, the second, and each one after that.
const RESTARTS: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(5),
];

/// Without a failure for so long, the next one is the first again.
const FORGIVEN: Duration = Duration::from_hours(24);

/// How long the service may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Installs it, to be started with Windows.
pub fn install(run: &[OsString]) -> anyhow::Result<()> {
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    let directory = directory::make()?;
    let mut launch_arguments: Vec<OsString> = vec!["service".into(), "host".into(), "--".into()];
    launch_arguments.extend_from_slice(run);
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: env::current_exe().context("cannot tell where slowburn is")?,
        launch_arguments,
        dependencies: Vec::new(),
        // The system's own account may trace the kernel.
        account_name: None,
        account_password: None,
    };
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let service = manager
        .create_service(&info, access)
        .map_err(|error| told("install the service", error))?;
    let configured = configure(&service);
    if configured.is_err() {
        // Half of it is worse than nothing.
        let _ = uninstall();
    }
    configured?;
    println!("installed; `slowburn service start` starts it now, and Windows from now on");
    println!("policy and output are in {}", directory.display());
    Ok(())
}

fn configure(service: &Service) -> anyhow::Result<()> {
    let set = |what: &'static str| move |error| told(what, error);
    service
        .set_description(DESCRIPTION)
        .map_err(set("describe the service"))?;
    let restart = |delay: Duration| ServiceAction {
        action_type: ServiceActionType::Restart,
        delay,
    };
    let actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGIVEN),
        reboot_msg: None,
        command: None,
        actions: Some(RESTARTS.map(restart).to_vec()),
    };
    service
        .update_failure_actions(actions)
        .map_err(set("say what happens when the service fails"))?;
    // It may also stop in order, with an error.
    match service.set_failure_actions_on_non_crash_failures(true) {
        Err(error) if code(&error) == Some(INVALID_LEVEL) => {
            tracing::warn!("this Windows starts the service again after a crash only");
        }
        set_or_not => set_or_not.map_err(set("say what happens when the service fails"))?,
    }
    event_log::register().context("cannot make slowburn known to the event log")
}

/// Stops and removes it. Policy and output stay.
pub fn uninstall() -> anyhow::Result<()> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE)?;
    end(&service)?;
    service
        .delete()
        .map_err(|error| told("remove the service", error))?;
    event_log::unregister().context("cannot take slowburn out of the event log's sources")?;
    println!("removed; what is in {} stays", directory::path().display());
    Ok(())
}

/// Starts it.
pub fn start() -> anyhow::Result<()> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::START)?;
    service
        .start(&[] as &[&str])
        .map_err(|error| told("start the service", error))?;
    let status = wait(&service, ServiceState::Running)?;
    if status.current_state != ServiceState::Running {
        bail!("the service has {}: the event log says why", words(&status));
    }
    println!("{}", words(&status));
    Ok(())
}

/// Stops it.
pub fn stop() -> anyhow::Result<()> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?;
    println!("{}", words(&end(&service)?));
    Ok(())
}

/// Says whether it runs.
pub fn status() -> anyhow::Result<()> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG)?;
    let config = service
        .query_config()
        .map_err(|error| told("read how the service is installed", error))?;
    println!("{}", words(&query(&service)?));
    println!("command: {}", config.executable_path.display());
    let known = if event_log::is_registered() {
        "in"
    } else {
        "not known to"
    };
    println!("messages: {known} the event log \"Application\", source {NAME}");
    println!("policy and output: {}", directory::path().display());
    Ok(())
}

fn end(service: &Service) -> anyhow::Result<ServiceStatus> {
    let now = query(service)?;
    if now.current_state == ServiceState::Stopped {
        return Ok(now);
    }
    // One that is stopping already takes no controls.
    if now.current_state != ServiceState::StopPending {
        service
            .stop()
            .map_err(|error| told("stop the service", error))?;
    }
    let status = wait(service, ServiceState::Stopped)?;
    if status.current_state != ServiceState::Stopped {
        bail!("the service does not stop: it {}", words(&status));
    }
    Ok(status)
}

/// Waits until it is in that state, or has stopped.
fn wait(service: &Service, wanted: ServiceState) -> anyhow::Result<ServiceStatus> {
    let begun = Instant::now();
    loop {
        let status = query(service)?;
        let is_there =
            status.current_state == wanted || status.current_state == ServiceState::Stopped;
        if is_there || begun.elapsed() > PATIENCE {
            return Ok(status);
        }
        sleep(Duration::from_millis(100));
    }
}

fn query(service: &Service) -> anyhow::Result<ServiceStatus> {
    service
        .query_status()
        .map_err(|error| told("ask about the service", error))
}

fn words(status: &ServiceStatus) -> String {
    match (status.current_state, status.process_id) {
        (ServiceState::Running, Some(pid)) => format!("runs as process {pid}"),
        (ServiceState::Running, None) => "runs".into(),
        (ServiceState::StopPending, _) => "is being stopped".into(),
        (ServiceState::Stopped, _) if status.exit_code == ServiceExitCode::NO_ERROR => {
            "stopped".into()
        }
        (ServiceState::Stopped, _) if status.exit_code == NEVER_STARTED => {
            "installed, and has not been started yet".into()
        }
        (ServiceState::Stopped, _) => format!("stopped with an error ({:?})", status.exit_code),
        (state, _) => format!("is {state:?}"),
    }
}

fn manager(access: ServiceManagerAccess) -> anyhow::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&str>, access)
        .map_err(|error| told("reach the service control manager", error))
}

fn open(access: ServiceAccess) -> anyhow::Result<Service> {
    manager(ServiceManagerAccess::CONNECT)?
        .open_service(NAME, access)
        .map_err(|error| told("open the service", error))
}

fn code(error: &windows_service::Error) -> Option<i32> {
    match error {
        windows_service::Error::Winapi(source) => source.raw_os_error(),
        _ => None,
    }
}

fn told(what: &str, error: windows_service::Error) -> anyhow::Error {
    match code(&error) {
        Some(ACCESS_DENIED) => anyhow::anyhow!(
            "cannot {what} without an administrator's rights: use an elevated prompt (\"Run as administrator\")"
        ),
        Some(DOES_NOT_EXIST) => anyhow::anyhow!(
            "slowburn is not installed as a service; `slowburn service install -- --service NAME` does that"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot {what}")),
    }
}
