package store

import (
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

// Record is all that the mount manager must know of one mount to go on with it
// after a restart. It holds no secret: those are in Secrets.
type Record struct {
	// ID is random and never reused.
	ID         string          `json:"id"`
	State      lifecycle.State `json:"state"`
	StateSince time.Time       `json:"stateSince"`
	// Reason and Message are the cause of the state, for programs and people.
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// BootID is the kernel's boot that the mount was made in: no mount
	// survives its boot.
	BootID string `json:"bootID"`

	// Inputs are what the settings were resolved from, without the Secret, so
	// that the mount can be made again exactly as it was.
	Inputs volume.Inputs `json:"inputs"`
	// Image replaces the image that the settings have, as an upgrade asked for;
	// empty for theirs.
	Image        string           `json:"image,omitempty"`
	UniqueID     string           `json:"uniqueID"`
	ShareMode    volume.ShareMode `json:"shareMode"`
	SettingsHash string           `json:"settingsHash"`
	FileSystem   string           `json:"fileSystem"`
	// FileSystemUUID is empty until the first client has told it.
	FileSystemUUID string `json:"fileSystemUUID,omitempty"`
	ReadOnly       bool   `json:"readOnly,omitempty"`

	MountPath string `json:"mountPath"`
	// DeviceMinor is 0 until the kernel mount is made.
	DeviceMinor uint32 `json:"deviceMinor,omitempty"`
	// InitRequest is the connection's settings as the client returned them,
	// which a successor must be offered; empty while not known.
	InitRequest []byte `json:"initRequest,omitempty"`

	// Previous are the connections that were lost, oldest first, until no target
	// shows them any more. They stay mounted, so that nobody gets their devices.
	Previous []Connection `json:"previous,omitempty"`
	// Reattaching is true in state Remounting when the new connection is served
	// and targets may show it.
	Reattaching bool `json:"reattaching,omitempty"`

	Client     Client      `json:"client"`
	Successor  *Client     `json:"successor,omitempty"`
	References []Reference `json:"references,omitempty"`
	Recoveries uint32      `json:"recoveries,omitempty"`
	// DeleteDelay keeps the mount for this long when nobody uses it.
	DeleteDelay time.Duration `json:"deleteDelay,omitempty"`
	// DeleteAt is when an unused mount goes; zero while it is used.
	DeleteAt time.Time `json:"deleteAt,omitzero"`
	// CleanCache removes the cached blocks with the last mount of UniqueID.
	CleanCache bool `json:"cleanCache,omitempty"`
	// RequestsRemoved tells that the node had not what the mount pods request,
	// so that they are made without requests.
	RequestsRemoved bool `json:"requestsRemoved,omitempty"`
	// Upgrade is the running or last one; nil when there never was one.
	Upgrade *Upgrade `json:"upgrade,omitempty"`
	// PodProblem is what is not as it should be with a mount pod that serves
	// nevertheless; nil when there is nothing.
	PodProblem *PodProblem `json:"podProblem,omitempty"`
	// Adopted is set while settings and Secret of a mount that was taken over
	// from the existing driver may differ from what is published: until then a
	// target joins it by its unique id alone.
	Adopted *Adopted `json:"adopted,omitempty"`
}

// PodProblem says why a mount pod has other resources than its settings say.
type PodProblem struct {
	PodUID  string `json:"podUID"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// ClientMode is how a client runs.
type ClientMode string

// The modes.
const (
	// ModePod is an unprivileged mount pod, as a child of jfs-launch.
	ModePod ClientMode = ""
	// ModeClassic is a privileged mount pod, by the client's own supervisor.
	ModeClassic ClientMode = "Classic"
	// ModeProcess is a confined process of the node, as a child of jfs-launch.
	ModeProcess ClientMode = "Process"
)

// Client is a JuiceFS client and the mount pod that it runs in.
type Client struct {
	// Mode is where the client runs.
	Mode    ClientMode `json:"mode,omitempty"`
	PodName string     `json:"podName,omitempty"`
	// PodUID is empty until the API server has accepted the pod.
	PodUID    string    `json:"podUID,omitempty"`
	Image     string    `json:"image,omitempty"`
	Version   string    `json:"version,omitempty"`
	SessionID uint64    `json:"sessionID,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	// RunAsUser is the uid of all that runs in the pod.
	RunAsUser uint32 `json:"runAsUser,omitempty"`
	// Launcher is PID 1 of the pod, once it was met: jfs-launch, or the client's
	// own supervisor in a classic pod.
	Launcher launcher.Process `json:"launcher,omitzero"`
	// Shape is the key of the pod's shape; empty where no spare could have it.
	Shape string `json:"shape,omitempty"`
	// FromSpare is true for a pod that was a spare before.
	FromSpare bool `json:"fromSpare,omitempty"`
	// Exchange names the directory that a classic pod shares with its keeper.
	Exchange string `json:"exchange,omitempty"`
	// SecretName is the Secret of the mount namespace that a classic pod has its
	// credentials from.
	SecretName string `json:"secretName,omitempty"`
}

// Connection is a FUSE connection that was lost.
type Connection struct {
	MountPath   string `json:"mountPath"`
	DeviceMinor uint32 `json:"deviceMinor"`
}

// PreviousMinors are the devices of the connections that were lost.
func (r Record) PreviousMinors() []uint32 {
	minors := make([]uint32, 0, len(r.Previous))
	for _, connection := range r.Previous {
		minors = append(minors, connection.DeviceMinor)
	}
	return minors
}

// Adopted is what a mount of the existing driver was found to be made with.
type Adopted struct {
	// Options are those of the client's -o; empty once a client of ours serves.
	Options string `json:"options,omitempty"`
	// Kernel is what the mount table shows; its source is empty once a client of
	// ours serves.
	Kernel volume.KernelMount `json:"kernel,omitzero"`
}

// Reference is one target path at which the mount is visible.
type Reference struct {
	VolumeID   string `json:"volumeID"`
	TargetPath string `json:"targetPath"`
	ReadOnly   bool   `json:"readOnly,omitempty"`
	// BindPath is the directory of the mount that the target shows, relative
	// and clean: that of its volume in a shared mount; empty for the root.
	BindPath string `json:"bindPath,omitempty"`
	// StagesDue is true until the stages of the volume have run that comes to a
	// shared mount.
	StagesDue bool `json:"stagesDue,omitempty"`
	// AccessMode is empty in records of releases that did not keep it.
	AccessMode AccessMode `json:"accessMode,omitempty"`
	Pod        Pod        `json:"pod"`
	Since      time.Time  `json:"since"`
}

// AccessMode is how a target may be used, as CSI names it.
type AccessMode string

// SingleNodeSingleWriter is the access mode of ReadWriteOncePod: one target at
// a time.
const SingleNodeSingleWriter AccessMode = "SINGLE_NODE_SINGLE_WRITER"

// Pod names an application pod.
type Pod struct {
	Namespace      string `json:"namespace,omitempty"`
	Name           string `json:"name,omitempty"`
	UID            string `json:"uid,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
}

// Clone returns a copy that shares nothing that is ever changed in place.
func (r Record) Clone() Record {
	c := r
	c.References = append([]Reference(nil), r.References...)
	c.Previous = append([]Connection(nil), r.Previous...)
	if r.Successor != nil {
		successor := *r.Successor
		c.Successor = &successor
	}
	if r.Upgrade != nil {
		upgrade := *r.Upgrade
		c.Upgrade = &upgrade
	}
	if r.PodProblem != nil {
		problem := *r.PodProblem
		c.PodProblem = &problem
	}
	if r.Adopted != nil {
		adopted := *r.Adopted
		c.Adopted = &adopted
	}
	return c
}
