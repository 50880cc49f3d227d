package mountpod

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
)

// LauncherSource says how jfs-launch comes into a mount pod.
type LauncherSource string

// The sources. Pod Security forbids host paths; image volumes need Kubernetes
// 1.35, or 1.33 with a feature gate; an init container takes the longest.
const (
	LauncherFromHost          LauncherSource = "hostPath"
	LauncherFromImage         LauncherSource = "image"
	LauncherFromInitContainer LauncherSource = "initContainer"
)

// Launcher is where jfs-launch comes from.
type Launcher struct {
	// Source is LauncherFromHost when empty.
	Source LauncherSource
	// Image is the mount manager's, which holds /jfs-launch.
	Image string
}

// Check fails with errdefs.ErrInvalidArgument when the source is unknown or
// lacks what it needs.
func (l Launcher) Check() error {
	if !slices.Contains([]LauncherSource{"", LauncherFromHost, LauncherFromImage, LauncherFromInitContainer}, l.Source) {
		return fmt.Errorf("launcher source %q is none of hostPath, image, initContainer: %w", l.Source, errdefs.ErrInvalidArgument)
	}
	if (l.Source == LauncherFromImage || l.Source == LauncherFromInitContainer) && l.Image == "" {
		return fmt.Errorf("launcher source %s needs the image of the mount manager: %w", l.Source, errdefs.ErrInvalidArgument)
	}
	return nil
}

// source is the volume at volume.LauncherDir. The image has jfs-launch in its
// root directory.
func (l Launcher) source(hostDir string) corev1.VolumeSource {
	switch l.Source {
	case LauncherFromImage:
		return corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: l.Image}}
	case LauncherFromInitContainer:
		return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	case LauncherFromHost:
	}
	directory := corev1.HostPathDirectory
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: hostDir, Type: &directory}}
}

// initContainers are the user's, after the one that brings jfs-launch.
func initContainers(s Spec, l *layout, resources corev1.ResourceRequirements) []corev1.Container {
	own := s.Settings.Pod.InitContainers
	if s.Launcher.Source != LauncherFromInitContainer {
		return own
	}
	at := slices.IndexFunc(l.mounts, func(m corev1.VolumeMount) bool { return m.MountPath == volume.LauncherDir })
	install := corev1.Container{
		Name:                     volume.LauncherName,
		Image:                    s.Launcher.Image,
		Command:                  []string{"/jfs-launch", "install", volume.LauncherDir},
		Resources:                resources,
		VolumeMounts:             []corev1.VolumeMount{{Name: l.mounts[at].Name, MountPath: volume.LauncherDir}},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          containerSecurity(s.Settings.Pod),
	}
	return slices.Concat([]corev1.Container{install}, own)
}
