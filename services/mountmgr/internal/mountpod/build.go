// Package mountpod makes, watches and deletes the mount pods of one node.
package mountpod

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Labels and annotations of mount pods, as the existing driver names them;
// MountIDLabel is ours, and so is ModeLabel, which only clients without a pod
// have.
const (
	NameLabel           = "app.kubernetes.io/name"
	NameValue           = "juicefs-mount"
	UniqueIDLabel       = "volume-id"
	HashLabel           = "juicefs-hash"
	MountIDLabel        = "csi.juicefs.com/mount-id"
	ModeLabel           = "csi.juicefs.com/client-mode"
	UniqueIDAnnotation  = "juicefs-uniqueid"
	UUIDAnnotation      = "juicefs-uuid"
	ShareModeAnnotation = "juicefs/mount-share-mode"
	DelayAnnotation     = "juicefs-delete-delay"
	DeleteAtAnnotation  = "juicefs-delete-at"
	CleanAnnotation     = "juicefs-clean-cache"
)

const (
	// maxName is the longest name of a pod, which becomes a host name label
	// of 63 characters at the most.
	maxName      = 63
	maxLabel     = 63
	referenceLen = 63
)

// Spec is what a mount pod is built from.
type Spec struct {
	Name      string
	Namespace string
	Node      string
	MountID   string
	// LauncherDir is the host directory that holds jfs-launch, and Launcher says
	// where it comes from instead.
	LauncherDir string
	Launcher    Launcher
	Settings    volume.Settings
	// FileSystemUUID is that of the file system; empty until it was mounted once.
	FileSystemUUID string
	// Targets are the present references.
	Targets []string
}

// Name is the name of a mount pod: suffix makes each attempt's own.
func Name(node, uniqueID, suffix string) string {
	base := strings.ToLower("juicefs-" + node + "-" + uniqueID)
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, base)
	if limit := maxName - len(suffix) - 1; len(base) > limit {
		digest := sha256.Sum256([]byte(base))
		base = base[:limit-9] + "-" + hex.EncodeToString(digest[:4])
	}
	return strings.TrimRight(base, "-") + "-" + suffix
}

// ReferenceKey is the annotation that mirrors a reference to target.
func ReferenceKey(target string) string {
	digest := sha256.Sum256([]byte(target))
	return ("juicefs-" + hex.EncodeToString(digest[:]))[:referenceLen]
}

// Build returns the pod: no capability, no device, no mount propagation, no
// token, and no host path but the launcher, the cache and what users ask for.
// What users say of their own containers, volumes and hooks is kept as it is.
// Quantities that do not parse fail with errdefs.ErrInvalidArgument.
func Build(s Spec) (*corev1.Pod, error) {
	resources, err := resourceRequirements(s.Settings.Pod.Resources)
	if err != nil {
		return nil, err
	}
	shape := s.Settings.Pod
	layout := layOut(s)
	no := false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name, Namespace: s.Namespace, Labels: labels(s), Annotations: annotations(s),
		},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			ServiceAccountName:            shape.ServiceAccount,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			HostNetwork:                   shape.HostNetwork,
			HostPID:                       shape.HostPID,
			Hostname:                      shape.Hostname,
			DNSPolicy:                     corev1.DNSPolicy(shape.DNSPolicy),
			DNSConfig:                     shape.DNSConfig,
			PriorityClassName:             shape.PriorityClass,
			TerminationGracePeriodSeconds: gracePeriod(shape),
			SecurityContext:               podSecurity(shape),
			Volumes:                       layout.volumes,
			InitContainers:                initContainers(s, layout, resources),
			Containers: []corev1.Container{{
				Name:                     volume.ContainerName,
				Image:                    shape.Image,
				ImagePullPolicy:          corev1.PullPolicy(shape.ImagePullPolicy),
				Command:                  command(shape),
				Env:                      environment(shape),
				Resources:                resources,
				VolumeMounts:             layout.mounts,
				VolumeDevices:            shape.VolumeDevices,
				LivenessProbe:            shape.LivenessProbe,
				ReadinessProbe:           shape.ReadinessProbe,
				StartupProbe:             shape.StartupProbe,
				Lifecycle:                shape.Lifecycle,
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				SecurityContext:          containerSecurity(shape),
				Ports:                    metricsPort(shape),
			}},
		},
	}
	place(&pod.Spec, s)
	return pod, nil
}

// defaultGrace is how long a mount pod that is being deleted may go on
// serving: the time to start its successor and hand over.
const defaultGrace = 60

func gracePeriod(shape volume.PodShape) *int64 {
	grace := shape.TerminationGracePeriodSeconds
	if grace == 0 {
		grace = defaultGrace
	}
	return &grace
}

func metricsPort(shape volume.PodShape) []corev1.ContainerPort {
	if shape.MetricsPort == 0 {
		return nil
	}
	return []corev1.ContainerPort{{Name: "metrics", ContainerPort: shape.MetricsPort}}
}

func labels(s Spec) map[string]string {
	l := maps.Clone(s.Settings.Pod.Labels)
	if l == nil {
		l = make(map[string]string)
	}
	l[NameLabel] = NameValue
	l[UniqueIDLabel] = labelValue(s.Settings.UniqueID)
	l[HashLabel] = s.Settings.Hash
	l[MountIDLabel] = s.MountID
	return l
}

// labelValue keeps volume handles that are no label values from failing the
// pod; the annotation has them whole.
func labelValue(value string) string {
	cleaned := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, value)
	if len(cleaned) > maxLabel {
		cleaned = cleaned[:maxLabel]
	}
	return strings.Trim(cleaned, "-_.")
}

func annotations(s Spec) map[string]string {
	a := maps.Clone(s.Settings.Pod.Annotations)
	if a == nil {
		a = make(map[string]string)
	}
	a[UniqueIDAnnotation] = s.Settings.UniqueID
	a[ShareModeAnnotation] = string(s.Settings.ShareMode)
	if s.FileSystemUUID != "" {
		a[UUIDAnnotation] = s.FileSystemUUID
	}
	if s.Settings.DeleteDelay > 0 {
		a[DelayAnnotation] = s.Settings.DeleteDelay.String()
	}
	if s.Settings.CleanCache {
		a[CleanAnnotation] = "true"
	}
	for _, target := range s.Targets {
		a[ReferenceKey(target)] = target
	}
	return a
}

func resourceRequirements(r volume.Resources) (corev1.ResourceRequirements, error) {
	requests, err := resourceList("requests", r.Requests)
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	limits, err := resourceList("limits", r.Limits)
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}, err
}

func resourceList(field string, quantities map[string]string) (corev1.ResourceList, error) {
	if len(quantities) == 0 {
		return nil, nil
	}
	list := make(corev1.ResourceList, len(quantities))
	for name, text := range quantities {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("resources.%s.%s: %q is no quantity: %w", field, name, text, errdefs.ErrInvalidArgument)
		}
		list[corev1.ResourceName(name)] = quantity
	}
	return list, nil
}
