// Package volume turns all that users say about a volume into the settings of
// its mount. It does no I/O and has no state: equal inputs give equal settings,
// so a mount that is made again is the same mount.
package volume

import "time"

// Inputs is everything that the settings of a mount depend on.
type Inputs struct {
	// VolumeID is the CSI volume handle.
	VolumeID string
	// Attributes are the PersistentVolume's volumeAttributes, which hold the
	// StorageClass parameters of a dynamic volume too.
	Attributes map[string]string
	// MountOptions are the PersistentVolume's mountOptions.
	MountOptions []string
	// ReadOnly is true when every target of the mount is read-only.
	ReadOnly bool
	// Secret is the content of the publish Secret.
	Secret map[string]string
	// Claim, StorageClass and Node are what mountPodPatch selectors look at;
	// zero values match only items without a selector.
	Claim        Object
	StorageClass string
	Node         Object
	// App is the application pod that the first target belongs to.
	App Object
	// Config is the driver's ConfigMap.
	Config Config
	// Defaults are the flags of the mount manager.
	Defaults Defaults
}

// Object is the part of a Kubernetes object that selectors and templates use.
type Object struct {
	Namespace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// Defaults are settings of the installation, for what nobody else sets.
type Defaults struct {
	// CommunityImage and EnterpriseImage are the mount images.
	CommunityImage  string
	EnterpriseImage string
	// MountRoot is the host directory below which kernel mounts are made.
	MountRoot string
	// CacheDir is the host directory of caches without a cache-dir option.
	CacheDir string
	// ServiceAccount runs the mount pods.
	ServiceAccount string
	// PriorityClass of mount pods.
	PriorityClass string
	// ShareMode says what volumes share a mount.
	ShareMode ShareMode
}

// Edition is the kind of JuiceFS client.
type Edition string

// The editions.
const (
	Community  Edition = "ce"
	Enterprise Edition = "ee"
)

// ShareMode says which volumes share one mount.
type ShareMode string

// The share modes, as the annotation juicefs/mount-share-mode writes them.
const (
	ShareByVolume       ShareMode = "volume"
	ShareByStorageClass ShareMode = "storageclass"
	ShareByFileSystem   ShareMode = "filesystem"
)

// Settings is everything that the mount manager needs to make a mount.
type Settings struct {
	Edition Edition
	// FileSystem is the name of the JuiceFS file system.
	FileSystem string
	// UniqueID is what is shared: volume handle, StorageClass or file system.
	UniqueID  string
	ShareMode ShareMode
	// Hash is equal for settings that may share a mount: 63 hex digits.
	Hash string
	// ReadOnly makes targets read-only; the client answers EROFS as well.
	ReadOnly bool
	// BindPath is the directory of the mount, relative and clean, that targets
	// show; empty for its root.
	BindPath string

	// Stages run in order before the client: format, quota.
	Stages []Stage
	// Client is the argument vector of the serving client, with MountPoint in
	// place of the path; see ClientArgv. It is /bin/mount.juicefs META PATH -o
	// LIST, as mount(8) calls it: the client itself then tells its flags from
	// FUSE options, so options of clients newer than the driver work. Clients
	// 1.3.1 and 1.4.2 accept it as a child (JFS_SUPERVISOR) and stay in the
	// foreground with JFS_FOREGROUND=1.
	Client []string
	// Env and Files carry the credentials; never logged, never in an argument
	// vector.
	Env   []EnvVar
	Files []File

	Kernel KernelMount
	Pod    PodShape

	// Classic asks for a privileged mount pod in which the client mounts by
	// itself, as the existing driver has it; ClassicReason says why.
	Classic       bool
	ClassicReason string

	// Protection is what shall survive a killed client.
	Protection Protection
	// DeleteDelay keeps an unused mount for this long.
	DeleteDelay time.Duration
	// CleanCache removes the cache directories with the last mount.
	CleanCache bool
}

// Stage is one command that must succeed before the client starts.
type Stage struct {
	// Name is short and for people: "format".
	Name string
	Argv []string
	// Timeout ends the stage.
	Timeout time.Duration
	// IgnoreOutput lists texts of a failure that count as success.
	IgnoreOutput []string
}

// EnvVar is one variable of the client's environment.
type EnvVar struct {
	Name  string
	Value string
}

// File is written inside the mount pod before the first stage.
type File struct {
	// Path is absolute.
	Path    string
	Content []byte
	// Mode is the permission bits.
	Mode uint32
}

// KernelMount is what the client would have asked of mount(2).
type KernelMount struct {
	// Source is the first field of the mount table: "JuiceFS:<name>".
	Source string
	// Flags are MS_* flags of mount(2).
	Flags uintptr
	// MaxRead is the largest read request in bytes.
	MaxRead int
	// DefaultPermissions lets the kernel check permissions.
	DefaultPermissions bool
	// WritebackCache changes the settings bytes of the connection.
	WritebackCache bool
}

// PodShape is what users may say about the mount pod.
type PodShape struct {
	Image           string
	ImagePullPolicy string
	Labels          map[string]string
	Annotations     map[string]string
	ServiceAccount  string
	PriorityClass   string
	Resources       Resources
	// TerminationGracePeriodSeconds is 0 for the mount manager's default.
	TerminationGracePeriodSeconds int64
	// HostPaths are host directories that the client sees at the same path.
	HostPaths []string
	// SecretVolumes are Secrets of the mount namespace that the client sees as
	// files.
	SecretVolumes []SecretVolume
	// CacheDirs are host directories for the cache.
	CacheDirs []string
	// MetricsPort is where the client serves its metrics.
	MetricsPort int32
	HostNetwork bool
}

// SecretVolume is a Secret of the mount namespace at a directory of the mount
// pod.
type SecretVolume struct {
	Name string
	Path string
}

// Resources are Kubernetes quantities by resource name.
type Resources struct {
	Requests map[string]string
	Limits   map[string]string
}

// Protection is a level of crash protection, as the parameter
// csi.juicefs.com/crash-protection writes it.
type Protection string

// The levels, weakest first.
const (
	ProtectConnection Protection = "connection"
	ProtectSession    Protection = "session"
	ProtectFull       Protection = "full"
)
