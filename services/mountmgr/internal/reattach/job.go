// Package reattach replaces what shows a lost FUSE connection by the new one
// that was made in its place: targets, the binds that kubelet makes of their
// directories (subPath), and the copies in containers that get no mount events.
//
// What to do is planned from what the kernel says of mounts, and done by a
// short-lived process for each mount namespace: it looks up directories inside
// the new mount, which waits for its client, and it enters namespaces whose
// content the users of containers choose.
package reattach

import (
	"slices"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// Job is what one process does in one mount namespace.
type Job struct {
	Connection
	// MountPath is the mount point of the new connection.
	MountPath string `json:"mountPath"`
	// Paths are the mount points to look at in the process's own namespace.
	Paths []string `json:"paths,omitempty"`
	// Namespace is that to enter; all its mount points are looked at then.
	Namespace *Namespace `json:"namespace,omitempty"`
}

// Connection is a FUSE connection and those that it takes the place of.
type Connection struct {
	// Minor is the device of the new connection.
	Minor uint32 `json:"minor"`
	// Lost are the devices of those before it.
	Lost []uint32 `json:"lost"`
}

// shows tells whether a mount is of a lost connection.
func (c Connection) shows(entry mountinfo.Entry) bool {
	return entry.FSType == kernelmount.FSType && slices.Contains(c.Lost, entry.Minor)
}

// isNew tells whether a mount is of the new connection.
func (c Connection) isNew(entry mountinfo.Entry) bool {
	return entry.FSType == kernelmount.FSType && entry.Minor == c.Minor
}

// Namespace is a mount namespace and a process that is in it.
type Namespace struct {
	PID int `json:"pid"`
	// Inode tells when another process has got the number meanwhile.
	Inode uint64 `json:"inode"`
}

// Report is what was done.
type Report struct {
	// Replaced are the mount points that show the new connection now.
	Replaced []string `json:"replaced,omitempty"`
	// Left are those that still show a lost one.
	Left []Left `json:"left,omitempty"`
}

// Left is a mount point that could not be replaced.
type Left struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
	// Retry says that another attempt may succeed.
	Retry bool `json:"retry,omitempty"`
}

// Add appends another report.
func (r *Report) Add(other Report) {
	r.Replaced = append(r.Replaced, other.Replaced...)
	r.Left = append(r.Left, other.Left...)
}

// Retry says whether another attempt may replace more.
func (r *Report) Retry() bool {
	return slices.ContainsFunc(r.Left, func(l Left) bool { return l.Retry })
}
