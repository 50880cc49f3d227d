package mountpod_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

func waitingPod(reason string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why"}},
	}}}
}

func failedPod(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: message}
}

func TestTroubleOf(t *testing.T) {
	type trouble = mountpod.Trouble
	ended := func(reason, message string) trouble { return trouble{Reason: reason, Message: message, Ended: true} }
	withContainer := failedPod("Evicted", "disk")
	withContainer.ContainerStatuses = []corev1.ContainerStatus{{
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", Message: "killed"}},
	}}
	container := failedPod("less exact", "")
	container.ContainerStatuses = []corev1.ContainerStatus{{
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", Message: "too much"}},
	}}
	reclaim := "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"
	for name, c := range map[string]struct {
		status corev1.PodStatus
		want   trouble
	}{
		"new":              {corev1.PodStatus{}, trouble{}},
		"pulling":          {waitingPod("ContainerCreating"), trouble{}},
		"running":          {corev1.PodStatus{Phase: corev1.PodRunning}, trouble{}},
		"image not there":  {waitingPod("ErrImagePull"), trouble{Reason: "ErrImagePull", Message: "why"}},
		"image back-off":   {waitingPod("ImagePullBackOff"), trouble{Reason: "ImagePullBackOff", Message: "why"}},
		"no Secret":        {waitingPod("CreateContainerConfigError"), trouble{Reason: "CreateContainerConfigError", Message: "why"}},
		"never pulled":     {waitingPod("ErrImageNeverPull"), ended("ErrImageNeverPull", "why")},
		"no image name":    {waitingPod("InvalidImageName"), ended("InvalidImageName", "why")},
		"failed silently":  {failedPod("", ""), ended("Failed", "")},
		"ended":            {corev1.PodStatus{Phase: corev1.PodSucceeded}, ended("Succeeded", "")},
		"container ended":  {container, ended("OOMKilled", "too much")},
		"evicted":          {failedPod("Evicted", "disk"), trouble{Reason: "Evicted", Message: "disk", Ended: true, Imposed: true}},
		"evicted, running": {withContainer, trouble{Reason: "Evicted", Message: "disk", Ended: true, Imposed: true}},
		"shutdown":         {failedPod("NodeShutdown", "s"), trouble{Reason: "NodeShutdown", Message: "s", Ended: true, Imposed: true}},
		"terminated":       {failedPod("Terminated", "s"), trouble{Reason: "Terminated", Message: "s", Ended: true, Imposed: true}},
		"no cpu":           {failedPod("OutOfcpu", "m"), trouble{Reason: "OutOfcpu", Message: "m", Ended: true, Shortage: true, Imposed: true}},
		"nothing to reclaim": {failedPod("UnexpectedAdmissionError", reclaim),
			trouble{Reason: "UnexpectedAdmissionError", Message: reclaim, Ended: true, Shortage: true, Imposed: true}},
		"other admission": {failedPod("UnexpectedAdmissionError", "device"),
			trouble{Reason: "UnexpectedAdmissionError", Message: "device", Ended: true, Imposed: true}},
		"not scheduled": {corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes: 1 Insufficient memory.",
		}}}, trouble{Reason: "Unschedulable", Message: "0/1 nodes: 1 Insufficient memory.", Shortage: true}},
	} {
		if diff := cmp.Diff(c.want, mountpod.TroubleOf(&corev1.Pod{Status: c.status})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWithoutRequests(t *testing.T) {
	got := mountpod.WithoutRequests(volume.Resources{
		Requests: map[string]string{"cpu": "1"}, Limits: map[string]string{"cpu": "5", "memory": "5Gi"},
	})
	want := volume.Resources{
		Requests: map[string]string{"cpu": "0", "memory": "0"}, Limits: map[string]string{"cpu": "5", "memory": "5Gi"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
