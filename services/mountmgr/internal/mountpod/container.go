package mountpod

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// command runs jfs-launch, which hands on the variables that Kubernetes looks
// up; all others come over its socket.
func command(shape volume.PodShape) []string {
	argv := []string{volume.LauncherPath, "serve", "--socket=" + volume.SocketDir + "/" + launcher.SocketName}
	if len(shape.Env) > 0 {
		names := make([]string, 0, len(shape.Env))
		for _, variable := range shape.Env {
			names = append(names, variable.Name)
		}
		argv = append(argv, "--pass-env="+strings.Join(names, ","))
	}
	return argv
}

// environment gives users other than root a home that they may write: the
// image has none for them.
func environment(shape volume.PodShape) []corev1.EnvVar {
	if shape.UID() == 0 || slices.ContainsFunc(shape.Env, func(v corev1.EnvVar) bool { return v.Name == "HOME" }) {
		return shape.Env
	}
	return append([]corev1.EnvVar{{Name: "HOME", Value: volume.SocketDir}}, shape.Env...)
}

// containerSecurity takes everything away but the ids.
func containerSecurity(shape volume.PodShape) *corev1.SecurityContext {
	no, user := false, shape.UID()
	security := &corev1.SecurityContext{
		RunAsUser:                &user,
		RunAsGroup:               shape.RunAsGroup,
		AllowPrivilegeEscalation: &no,
		Privileged:               &no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if user != 0 {
		yes := true
		security.RunAsNonRoot = &yes
	}
	return security
}

// podSecurity gives volumes a group. A cache is large: its files are changed
// only when its directory shows that they have another group.
func podSecurity(shape volume.PodShape) *corev1.PodSecurityContext {
	if shape.FSGroup == nil {
		return nil
	}
	policy := corev1.FSGroupChangeOnRootMismatch
	return &corev1.PodSecurityContext{FSGroup: shape.FSGroup, FSGroupChangePolicy: &policy}
}

// place puts the pod on its node: past the scheduler, unless it is to place the
// pod by the node's label. Taints keep it away in neither case: who uses the
// mount is on the node already.
func place(spec *corev1.PodSpec, s Spec) {
	shape := s.Settings.Pod
	everywhere := corev1.Toleration{Operator: corev1.TolerationOpExists}
	spec.Tolerations = append(slices.Clone(shape.Tolerations), everywhere)
	if len(shape.NodeSelector) == 0 {
		spec.NodeName = s.Node
		return
	}
	spec.NodeSelector = maps.Clone(shape.NodeSelector)
	if spec.NodeSelector[corev1.LabelHostname] == "" {
		spec.NodeSelector[corev1.LabelHostname] = s.Node
	}
	spec.Affinity, spec.SchedulerName = shape.Affinity, shape.SchedulerName
}
