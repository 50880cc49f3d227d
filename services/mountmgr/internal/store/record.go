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
	// BindPath is the directory of the mount that targets show.
	BindPath string `json:"bindPath,omitempty"`

	MountPath string `json:"mountPath"`
	// DeviceMinor is 0 until the kernel mount is made.
	DeviceMinor uint32 `json:"deviceMinor,omitempty"`
	// InitRequest is the connection's settings as the client returned them,
	// which a successor must be offered; empty while not known.
	InitRequest []byte `json:"initRequest,omitempty"`

	Client     Client      `json:"client"`
	Successor  *Client     `json:"successor,omitempty"`
	References []Reference `json:"references,omitempty"`
	Recoveries uint32      `json:"recoveries,omitempty"`
	// Upgrade is the running or last one; nil when there never was one.
	Upgrade *Upgrade `json:"upgrade,omitempty"`
	// Adopted is set while settings and Secret of a mount that was taken over
	// from the existing driver may differ from what is published: until then a
	// target joins it by its unique id alone.
	Adopted *Adopted `json:"adopted,omitempty"`
}

// Client is a JuiceFS client and the mount pod that it runs in.
type Client struct {
	PodName string `json:"podName,omitempty"`
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
	// Mode is empty for an unprivileged mount pod.
	Mode ClientMode `json:"mode,omitempty"`
	// Exchange names the directory that a classic pod shares with its keeper.
	Exchange string `json:"exchange,omitempty"`
	// SecretName is the Secret of the mount namespace that a classic pod has its
	// credentials from.
	SecretName string `json:"secretName,omitempty"`
}

// ClientMode is how a client runs. The strings are stored on disk.
type ClientMode string

// The modes. Records of older releases have none, which is ModePod.
const (
	ModePod     ClientMode = "Pod"
	ModeClassic ClientMode = "Classic"
	ModeProcess ClientMode = "Process"
)

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
	if r.Successor != nil {
		successor := *r.Successor
		c.Successor = &successor
	}
	if r.Upgrade != nil {
		upgrade := *r.Upgrade
		c.Upgrade = &upgrade
	}
	if r.Adopted != nil {
		adopted := *r.Adopted
		c.Adopted = &adopted
	}
	return c
}
