package deletion

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

const (
	launcherDir = "/opt/juicefs-csi"
	filesDir    = "/run/jfs-launch"
	specDir     = "/run/spec"
	specKey     = "spec.json"
	// mountPoint is a name only: nothing is mounted.
	mountPoint = "/jfs"

	nameLabel          = "app.kubernetes.io/name"
	jobName            = "juicefs-job"
	kindLabel          = "csi.juicefs.com/job"
	kindDelete         = "delete-volume"
	volumeIDAnnotation = "csi.juicefs.com/volume-id"
	pathAnnotation     = "csi.juicefs.com/path"

	retries = 2
	// A directory of many millions of files takes long; a Job that failed is
	// started anew and goes on where it was.
	removeTimeout = time.Hour
	jobTimeout    = removeTimeout + 10*time.Minute
	// Finished Jobs go at once; this is for those whose controller went first.
	keepFinished = 10 * time.Minute
)

// JobName is the name of the Job that removes a volume: the same at every try.
func JobName(volumeID string) string {
	sum := sha256.Sum256([]byte(volumeID))
	return "juicefs-" + hex.EncodeToString(sum[:20]) + "-delvol"
}

// plan is all that the Job and its Secret are made of.
type plan struct {
	name      string
	namespace string
	volumeID  string
	// path is the directory as the client sees it.
	path           string
	settings       volume.Settings
	launcherImage  string
	serviceAccount string
}

// job is the Job, not started: it waits for its Secret, which it owns.
func (p plan) job() (*batchv1.Job, error) {
	pod, err := p.podSpec()
	if err != nil {
		return nil, err
	}
	labels := map[string]string{nameLabel: jobName, kindLabel: kindDelete}
	annotations := map[string]string{volumeIDAnnotation: p.volumeID, pathAnnotation: p.path}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: p.namespace, Labels: labels, Annotations: annotations},
		Spec: batchv1.JobSpec{
			Suspend:                 new(true),
			BackoffLimit:            new(int32(retries)),
			ActiveDeadlineSeconds:   new(int64(jobTimeout.Seconds())),
			TTLSecondsAfterFinished: new(int32(keepFinished.Seconds())),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec:       pod,
			},
		},
	}, nil
}

// podSpec needs no privilege: the client gets one end of a socket pair for its
// FUSE descriptor.
func (p plan) podSpec() (corev1.PodSpec, error) {
	resources, err := p.resources()
	if err != nil {
		return corev1.PodSpec{}, err
	}
	volumes, mounts := p.volumes()
	return corev1.PodSpec{
		RestartPolicy:                corev1.RestartPolicyNever,
		ServiceAccountName:           p.serviceAccount,
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		Tolerations:                  []corev1.Toleration{{Key: "CriticalAddonsOnly", Operator: corev1.TolerationOpExists}},
		Volumes:                      volumes,
		InitContainers: []corev1.Container{{
			Name:                     "launcher",
			Image:                    p.launcherImage,
			Command:                  []string{"/jfs-launch", "install", launcherDir},
			Resources:                resources,
			VolumeMounts:             mounts[:1],
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			SecurityContext:          unprivileged(),
		}},
		Containers: []corev1.Container{{
			Name:                     "remove",
			Image:                    p.settings.Pod.Image,
			ImagePullPolicy:          corev1.PullPolicy(p.settings.Pod.ImagePullPolicy),
			Command:                  p.command(),
			Env:                      p.settings.Pod.Env,
			Resources:                resources,
			VolumeMounts:             mounts,
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			SecurityContext:          unprivileged(),
		}},
	}, nil
}

// command removes the directory, with the variables that Kubernetes looks up.
func (p plan) command() []string {
	argv := []string{
		launcherDir + "/jfs-launch", "remove",
		"--spec=" + specDir + "/" + specKey, "--path=" + p.path, "--timeout=" + removeTimeout.String(),
	}
	if len(p.settings.Pod.Env) > 0 {
		names := make([]string, 0, len(p.settings.Pod.Env))
		for _, variable := range p.settings.Pod.Env {
			names = append(names, variable.Name)
		}
		argv = append(argv, "--pass-env="+strings.Join(names, ","))
	}
	return argv
}

func unprivileged() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		RunAsUser:                new(int64(0)),
		Privileged:               new(false),
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// volumes returns the volumes of the pod and where the client sees them; the
// launcher is the first.
func (p plan) volumes() ([]corev1.Volume, []corev1.VolumeMount) {
	var volumes []corev1.Volume
	var mounts []corev1.VolumeMount
	add := func(name, target string, readOnly bool, source corev1.VolumeSource) {
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: source})
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: target, ReadOnly: readOnly})
	}
	empty := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	secret := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: new(int32(0o400))}}
	}
	add("launcher", launcherDir, false, empty)
	add("jfs-launch", filesDir, false, empty)
	add("spec", specDir, true, secret(p.name))
	for i, mounted := range p.settings.Pod.SecretVolumes {
		add(fmt.Sprintf("secret-%d", i), mounted.Path, true, secret(mounted.Name))
	}
	// It must be there: an empty directory of another node is not the data.
	present := corev1.HostPathDirectory
	for i, dir := range p.settings.Pod.HostPaths {
		add(fmt.Sprintf("host-%d", i), dir, false,
			corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &present}})
	}
	// Credentials may be in volumes of the user's own.
	for _, own := range p.settings.Pod.Volumes {
		own.Name = "own-" + own.Name
		volumes = append(volumes, own)
	}
	for _, own := range p.settings.Pod.VolumeMounts {
		own.Name = "own-" + own.Name
		mounts = append(mounts, own)
	}
	return volumes, mounts
}

// resources has the limits of a mount pod and small requests: the Job has no
// application to serve.
func (p plan) resources() (corev1.ResourceRequirements, error) {
	requirements := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("50m"),
			corev1.ResourceMemory: resource.MustParse("128Mi"),
		},
		Limits: corev1.ResourceList{},
	}
	for name, text := range p.settings.Pod.Resources.Limits {
		limit, err := resource.ParseQuantity(text)
		if err != nil {
			return corev1.ResourceRequirements{}, fmt.Errorf("read limit of %s %q: %w", name, text, err)
		}
		key := corev1.ResourceName(name)
		requirements.Limits[key] = limit
		if request, found := requirements.Requests[key]; found && request.Cmp(limit) > 0 {
			requirements.Requests[key] = limit
		}
	}
	return requirements, nil
}
