package volume

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Config is config.yaml of the driver's ConfigMap, in the form of the existing
// driver. Switches that are nil were not set.
type Config struct {
	EnableNodeSelector               *bool   `json:"enableNodeSelector,omitempty"`
	EnableNativeSidecar              *bool   `json:"enableNativeSidecar,omitempty"`
	EnableSetQuota                   *bool   `json:"enableSetQuota,omitempty"`
	EnableControllerSetQuota         *bool   `json:"enableControllerSetQuota,omitempty"`
	EnableAutoRemoveRequestResources *bool   `json:"enableAutoRemoveRequestResources,omitempty"`
	EnableAutoAbortStuckMountPod     *bool   `json:"enableAutoAbortStuckMountPod,omitempty"`
	EnableLazyUmountTarget           *bool   `json:"enableLazyUmountTarget,omitempty"`
	EnableKubeletListMountPod        *bool   `json:"enableKubeletListMountPod,omitempty"`
	MountPodPatch                    []Patch `json:"mountPodPatch,omitempty"`
}

// Patch is one item of mountPodPatch. It applies to the mounts that all its
// selectors match; later items replace the values of earlier ones.
type Patch struct {
	PVCSelector  *PVCSelector          `json:"pvcSelector,omitempty"`
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	CEMountImage    string            `json:"ceMountImage,omitempty"`
	EEMountImage    string            `json:"eeMountImage,omitempty"`
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Resources                     *corev1.ResourceRequirements `json:"resources,omitempty"`
	TerminationGracePeriodSeconds *int64                       `json:"terminationGracePeriodSeconds,omitempty"`
	HostNetwork                   *bool                        `json:"hostNetwork,omitempty"`
	Env                           []corev1.EnvVar              `json:"env,omitempty"`
	MountOptions                  []string                     `json:"mountOptions,omitempty"`

	// RunAsUser, RunAsGroup and FSGroup are ids of the mount pod; they are ours.
	RunAsUser  *int64 `json:"runAsUser,omitempty"`
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`
	FSGroup    *int64 `json:"fsGroup,omitempty"`

	CacheDirs           []CacheDir           `json:"cacheDirs,omitempty"`
	HostPID             *bool                `json:"hostPID,omitempty"`
	DNSConfig           *corev1.PodDNSConfig `json:"dnsConfig,omitempty"`
	DNSPolicy           corev1.DNSPolicy     `json:"dnsPolicy,omitempty"`
	HostnameKey         string               `json:"hostnameKey,omitempty"`
	LivenessProbe       *corev1.Probe        `json:"livenessProbe,omitempty"`
	ReadinessProbe      *corev1.Probe        `json:"readinessProbe,omitempty"`
	StartupProbe        *corev1.Probe        `json:"startupProbe,omitempty"`
	Lifecycle           *corev1.Lifecycle    `json:"lifecycle,omitempty"`
	ResourcePercentages *ResourcePercentages `json:"resourcePercentages,omitempty"`

	Volumes        []corev1.Volume       `json:"volumes,omitempty"`
	VolumeDevices  []corev1.VolumeDevice `json:"volumeDevices,omitempty"`
	VolumeMounts   []corev1.VolumeMount  `json:"volumeMounts,omitempty"`
	InitContainers []corev1.Container    `json:"initContainers,omitempty"`
}

// PVCSelector chooses mounts by the claim; the terms that are set must all
// match.
type PVCSelector struct {
	metav1.LabelSelector `json:",inline"`
	// MatchName is the name of a claim, or namespace/name.
	MatchName             string `json:"matchName,omitempty"`
	MatchStorageClassName string `json:"matchStorageClassName,omitempty"`
}

// CacheDir is a cache volume of a mount pod.
type CacheDir struct {
	Type             string                              `json:"type,omitempty"`
	Path             string                              `json:"path,omitempty"`
	Name             string                              `json:"name,omitempty"`
	SizeLimit        string                              `json:"sizeLimit,omitempty"`
	Medium           string                              `json:"medium,omitempty"`
	StorageClassName *string                             `json:"storageClassName,omitempty"`
	Storage          string                              `json:"storage,omitempty"`
	AccessModes      []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
}

// ParseConfig reads config.yaml. Keys that it does not know are errors, since
// they are settings that would silently not work; all errors are
// ErrInvalidArgument and name what is wrong. An empty text is the empty Config.
func ParseConfig(text []byte) (Config, error) {
	object, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Config{}, fmt.Errorf("read config.yaml: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var config Config
	unknown, err := json.UnmarshalStrict(object, &config)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return Config{}, fmt.Errorf("read config.yaml: %s: %w", strings.ReplaceAll(err.Error(), "\n", "; "), errdefs.ErrInvalidArgument)
	}
	var faults faults
	for i, patch := range config.MountPodPatch {
		patch.check(fmt.Sprintf("mountPodPatch[%d]", i), &faults)
	}
	if err := faults.err(); err != nil {
		return Config{}, fmt.Errorf("read config.yaml: %w", err)
	}
	return config, nil
}
