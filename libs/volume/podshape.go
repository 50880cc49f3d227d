package volume

import corev1 "k8s.io/api/core/v1"

// PodShape is what users may say about the mount pod. Fields that came after
// the first release are left out of the hash while they are empty, so that
// mounts of that release stay what they are.
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

	// RunAsUser, RunAsGroup and FSGroup are ids of the pod; nil for root, and
	// for no group of volumes. The last element of CacheDirs then belongs to
	// that user alone; see UserCacheDir.
	RunAsUser  *int64 `json:",omitempty"`
	RunAsGroup *int64 `json:",omitempty"`
	FSGroup    *int64 `json:",omitempty"`

	// CacheVolumes are volumes for the cache that are no host directories.
	CacheVolumes []CacheVolume `json:",omitempty"`
	// Volumes, VolumeMounts and VolumeDevices are the user's own.
	Volumes        []corev1.Volume       `json:",omitempty"`
	VolumeMounts   []corev1.VolumeMount  `json:",omitempty"`
	VolumeDevices  []corev1.VolumeDevice `json:",omitempty"`
	InitContainers []corev1.Container    `json:",omitempty"`
	// Env are variables whose value Kubernetes knows (valueFrom).
	Env []corev1.EnvVar `json:",omitempty"`

	HostPID bool `json:",omitempty"`
	// Hostname is empty for the pod's name.
	Hostname  string               `json:",omitempty"`
	DNSConfig *corev1.PodDNSConfig `json:",omitempty"`
	DNSPolicy string               `json:",omitempty"`

	LivenessProbe  *corev1.Probe     `json:",omitempty"`
	ReadinessProbe *corev1.Probe     `json:",omitempty"`
	StartupProbe   *corev1.Probe     `json:",omitempty"`
	Lifecycle      *corev1.Lifecycle `json:",omitempty"`

	// ResourcePercentages are what Resources were derived with; the application
	// pods of one mount may differ, so the hash holds these instead.
	ResourcePercentages *ResourcePercentages `json:",omitempty"`

	// NodeSelector, when set, lets the scheduler place the pod on the node that
	// it names; Affinity, SchedulerName and Tolerations are then those of the
	// application pod.
	NodeSelector  map[string]string   `json:",omitempty"`
	Affinity      *corev1.Affinity    `json:",omitempty"`
	SchedulerName string              `json:",omitempty"`
	Tolerations   []corev1.Toleration `json:",omitempty"`
}

// SecretVolume is a Secret of the mount namespace at a directory of the mount
// pod.
type SecretVolume struct {
	Name string
	Path string
}

// CacheVolume is a volume at a directory of the mount pod.
type CacheVolume struct {
	Path   string
	Source corev1.VolumeSource
}

// Resources are Kubernetes quantities by resource name.
type Resources struct {
	Requests map[string]string
	Limits   map[string]string
}

// UID is the user of the pod; 0 is root.
func (s *PodShape) UID() int64 {
	if s.RunAsUser == nil {
		return 0
	}
	return *s.RunAsUser
}
