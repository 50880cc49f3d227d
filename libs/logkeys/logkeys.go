// Package logkeys holds the keys of structured log records, so that one thing
// has one name in the logs of all services.
package logkeys

// The keys.
const (
	Address    = "address"
	Code       = "code"
	Container  = "container"
	Driver     = "driver"
	Duration   = "duration"
	Entries    = "entries"
	Endpoint   = "endpoint"
	Error      = "error"
	Image      = "image"
	Method     = "method"
	MountID    = "mount_id"
	MountPath  = "mount_path"
	Namespace  = "namespace"
	Node       = "node"
	PID        = "pid"
	Path       = "path"
	Peer       = "peer"
	Pod        = "pod"
	PodUID     = "pod_uid"
	Reason     = "reason"
	Release    = "release"
	Server     = "server"
	Signal     = "signal"
	Socket     = "socket"
	Stack      = "stack"
	Stage      = "stage"
	State      = "state"
	TargetPath = "target_path"
	UniqueID   = "unique_id"
	VolumeID   = "volume_id"
)
