// Package logkeys holds the keys of structured log records, so that one thing
// has one name in the logs of all services.
package logkeys

// The keys.
const (
	Container  = "container"
	Duration   = "duration"
	Error      = "error"
	Image      = "image"
	Method     = "method"
	MountID    = "mount_id"
	MountPath  = "mount_path"
	Namespace  = "namespace"
	Node       = "node"
	Peer       = "peer"
	PID        = "pid"
	Pod        = "pod"
	PodUID     = "pod_uid"
	Reason     = "reason"
	Release    = "release"
	Signal     = "signal"
	Socket     = "socket"
	Stage      = "stage"
	State      = "state"
	TargetPath = "target_path"
	UniqueID   = "unique_id"
	VolumeID   = "volume_id"
)
