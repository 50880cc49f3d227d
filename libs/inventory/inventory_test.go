package inventory_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/inventory"
)

func TestTargetPodUID(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv/mount": "u1",
		"/data/kubelet/pods/u2/volume-subpaths/pv/app/0":              "u2",
		"/var/lib/kubelet/pods/u3":                                    "",
		"/var/lib/kubelet/pods//volumes/x":                            "",
		"pods/u4/volumes/x":                                           "",
		"30s":                                                         "",
	} {
		got, ok := inventory.TargetPodUID(target)
		if got != want || ok != (want != "") {
			t.Errorf("TargetPodUID(%q) = %q, %v; want %q", target, got, ok, want)
		}
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
		"juicefs-a1":           "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv/mount",
		"juicefs-a2":           "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv2/mount",
		"juicefs-a3":           "/var/lib/kubelet/pods/u2/volumes/kubernetes.io~csi/pv/mount",
		"juicefs-delete-delay": "30s",
		"other":                "/var/lib/kubelet/pods/u9/volumes/kubernetes.io~csi/pv/mount",
	}}}
	got := inventory.References(pod)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"u1", "u2"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	class := "jfs"
	claims := map[string]*corev1.PersistentVolumeClaim{
		"ns/bound":     claim("bound", "pv-jfs", nil),
		"ns/other":     claim("other", "pv-other", nil),
		"ns/waiting":   claim("waiting", "", &class),
		"ns/app-cache": claim("app-cache", "pv-jfs", nil),
	}
	volumes := map[string]*corev1.PersistentVolume{
		"pv-jfs":   volume("pv-jfs", inventory.DriverName, "handle"),
		"pv-other": volume("pv-other", "disk.example.com", "x"),
	}
	lookup := inventory.Lookup{
		Driver: inventory.DriverName,
		Claim: func(ns, name string) *corev1.PersistentVolumeClaim {
			return claims[ns+"/"+name]
		},
		Volume:       func(name string) *corev1.PersistentVolume { return volumes[name] },
		JuiceFSClass: func(name string) bool { return name == class },
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app"}}
	for _, name := range []string{"bound", "other", "waiting", "missing"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "cache", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	)
	want := []inventory.Volume{
		{Claim: "bound", Name: "pv-jfs", Handle: "handle"},
		{Claim: "waiting"},
		{Claim: "app-cache", Name: "pv-jfs", Handle: "handle"},
	}
	if diff := cmp.Diff(want, lookup.Volumes(pod)); diff != "" {
		t.Error(diff)
	}
}

func TestStatusAndProblem(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Unix(1, 0))
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(code int32, reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
	}
	container := func(name string, s, last corev1.ContainerState) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: s, LastTerminationState: last}
	}
	none := corev1.ContainerState{}
	pod := func(phase corev1.PodPhase, containers ...corev1.ContainerStatus) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{Phase: phase, ContainerStatuses: containers}}
	}
	tests := map[string]struct {
		pod             corev1.Pod
		status, problem string
	}{
		"running": {
			pod:    pod(corev1.PodRunning, container("a", running, none)),
			status: "Running",
		},
		"creating": {
			pod:    pod(corev1.PodPending, container("a", waiting("ContainerCreating"), none)),
			status: "ContainerCreating",
		},
		"crash loop": {
			pod: pod(corev1.PodRunning,
				container("a", waiting("CrashLoopBackOff"), ended(1, "Error", "format: wrong password\n"))),
			status:  "CrashLoopBackOff",
			problem: "container a: CrashLoopBackOff, last exit code 1: format: wrong password",
		},
		"killed for memory": {
			pod:     pod(corev1.PodFailed, container("a", ended(137, "OOMKilled", ""), none)),
			status:  "OOMKilled",
			problem: "container a: exit code 137 (OOMKilled)",
		},
		"unschedulable": {
			pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"},
			}}},
			status:  "Pending",
			problem: "Unschedulable: 0/2 nodes",
		},
		"evicted": {
			pod:     corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "disk pressure"}},
			status:  "Evicted",
			problem: "Evicted: disk pressure",
		},
		"completed": {
			pod:    pod(corev1.PodSucceeded, container("a", ended(0, "Completed", ""), none)),
			status: "Completed",
		},
		"init": {
			pod: corev1.Pod{
				Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}, {Name: "j"}}},
				Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{
					container("i", ended(0, "Completed", ""), none), container("j", running, none),
				}},
			},
			status: "Init:1/2",
		},
		"terminating": {
			pod:    corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{Phase: corev1.PodRunning}},
			status: "Terminating",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := inventory.Status(&tt.pod); got != tt.status {
				t.Errorf("Status = %q, want %q", got, tt.status)
			}
			if got := inventory.Problem(&tt.pod); got != tt.problem {
				t.Errorf("Problem = %q, want %q", got, tt.problem)
			}
		})
	}
}

func claim(name, volumeName string, class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volumeName, StorageClassName: class},
	}
}

func volume(name, driver, handle string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle},
		}},
	}
}
