package launcher

// Identify is how a session names its jfs-launch.
func Identify(pid int32) (Process, error) { return identify(pid) }
