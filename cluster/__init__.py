"""Where runs are executed: devices, engines, workers, the driver, and the commands of `farm`."""
