//go:build kernel

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func failedStatus(reason, message string) *corev1.PodStatus {
	return &corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: message}
}

func waitingStatus(reason, message string) *corev1.PodStatus {
	return &corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
	}}}
}

// tooSmall is a node on which nothing can be requested.
func tooSmall(pod *corev1.Pod, _ int) *corev1.PodStatus {
	if pod.Spec.Containers[0].Resources.Requests.Cpu().IsZero() {
		return nil
	}
	return failedStatus("OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000, used: 3900, capacity: 4000")
}

func TestANodeThatHasNotWhatIsRequested(t *testing.T) {
	n := nodetest.NewNode(t)
	n.Kubelet.Refuse(tooSmall)
	off := false
	n.SetConfig(volume.Config{EnableAutoRemoveRequestResources: &off})
	_, _, err := n.Manager.Publish(t.Context(), request(n, n.Target("one")))
	if err == nil || !strings.Contains(err.Error(), "OutOfcpu") || !strings.Contains(err.Error(), "enableAutoRemoveRequestResources") {
		t.Errorf("without the switch: %v", err)
	}
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
	n.SetConfig(volume.Config{})
	record := publish(t, n, "pv-1", n.Target("one"))
	if now := current(t, n, record.ID); !now.RequestsRemoved || now.Reason != "RequestsRemoved" {
		t.Errorf("the record says %t, %q: %s", now.RequestsRemoved, now.Reason, now.Message)
	}
	// A successor is not refused first.
	n.Kubelet.Client.ClearActions()
	n.Kubelet.Kill(record.Client.PodUID)
	n.Eventually("another client serves", func() error { return serves(n, record) })
	if got := calls(n)["create"]; got != 1 {
		t.Errorf("%d pods were made for one successor", got)
	}
}

func TestAnImageThatComesLaterIsWaitedFor(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	n.Kubelet.Refuse(func(_ *corev1.Pod, attempt int) *corev1.PodStatus {
		switch {
		case attempt < 3:
			return waitingStatus("ErrImagePull", "registry is away")
		case attempt < 6:
			return waitingStatus("ImagePullBackOff", "Back-off pulling image")
		}
		return nil
	})
	publish(t, n, "pv-1", n.Target("one"))
	// A caller that goes before learns the cause.
	n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus { return waitingStatus("ErrImagePull", "no such image") })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	wanted := request(n, n.Target("two"))
	wanted.VolumeID = "pv-2"
	if _, _, err := n.Manager.Publish(ctx, wanted); err == nil || !strings.Contains(err.Error(), "ErrImagePull: no such image") {
		t.Errorf("without image: %v", err)
	}
	// What no retry can help is told at once.
	n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus { return waitingStatus("InvalidImageName", "bad name") })
	wanted.VolumeID, wanted.TargetPath = "pv-3", n.Target("three")
	if _, _, err := n.Manager.Publish(t.Context(), wanted); err == nil || !strings.Contains(err.Error(), "InvalidImageName: bad name") {
		t.Errorf("with a wrong image: %v", err)
	}
	n.Kubelet.Refuse(nil)
}

// While a node shuts down kubelet refuses every new pod and ends the mount pods
// last. The old client serves as long as it can, and few successors are made.
func TestAShutdownOfTheNodeIsNotFought(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	record, w := withWriter(t, n)
	var refused atomic.Int64
	n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus {
		refused.Add(1)
		return failedStatus("NodeShutdown", "Pod was rejected as the node is shutting down.")
	})
	if err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), record.Client.PodName, deleteOptions()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.Eventually("three successors were refused", func() error {
		if refused.Load() < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	t.Logf("three refusals in %v", time.Since(began).Round(time.Millisecond))
	w.AwaitMore(t, 50)
	n.Kubelet.Refuse(nil) // The shutdown is cancelled.
	n.Eventually("a successor serves", func() error { return serves(n, record) })
	w.StopAndCheck(t, n)
}

// Kubelet reports a pod that it is about to end as failed while it still runs.
func TestAClientThatServesIsKeptWhateverItsPodSays(t *testing.T) {
	t.Parallel()
	for _, status := range []*corev1.PodStatus{
		failedStatus("Terminated", "Pod was terminated in response to imminent node shutdown."),
		failedStatus("Evicted", "The node was low on resource: memory."),
	} {
		t.Run(status.Reason, func(t *testing.T) {
			n := nodetest.NewNode(t)
			record, w := withWriter(t, n)
			pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var refused atomic.Int64
			n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus {
				refused.Add(1)
				return failedStatus("NodeShutdown", "Pod was rejected as the node is shutting down.")
			})
			n.Kubelet.SetStatus(pod, *status)
			n.Eventually("two successors were refused", func() error {
				if refused.Load() < 2 {
					return errors.New("not yet")
				}
				return nil
			})
			w.AwaitMore(t, 50)
			if now := current(t, n, record.ID); now.State != "HandingOver" || now.Client.PodUID != record.Client.PodUID {
				t.Errorf("state %s, pod %s", now.State, now.Client.PodName)
			}
			n.Kubelet.Refuse(nil)
			n.Eventually("a successor serves", func() error { return serves(n, record) })
			w.StopAndCheck(t, n)
		})
	}
}

func TestTheLastTargetGoesWhileTheNodeShutsDown(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publishWith(t, n, target, map[string]string{"juicefs/mount-delete-delay": "10m"})
	n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus { return failedStatus("NodeShutdown", "shutting down") })
	if err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), record.Client.PodName, deleteOptions()); err != nil {
		t.Fatal(err)
	}
	n.Eventually("it is handed over", func() error {
		if state := current(t, n, record.ID).State; state != "HandingOver" {
			return fmt.Errorf("state %s", state)
		}
		return nil
	})
	unpublishAll(t, n, target)
}

func TestAnEvictedMountPodIsReplaced(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	write(t, n, filepath.Join(target, "f"), "hello")
	pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Kubelet.Kill(record.Client.PodUID)
	n.Kubelet.SetStatus(pod, *failedStatus("Evicted", "The node was low on resource: ephemeral-storage."))
	if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
		t.Error(err)
	}
	n.Eventually("another client serves", func() error { return serves(n, record) })
}

func TestAMountPodThatIsDeletedByForceIsReplaced(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	write(t, n, filepath.Join(target, "f"), "hello")
	now := int64(0)
	err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(
		t.Context(), record.Client.PodName, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil {
		t.Fatal(err)
	}
	if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
		t.Error(err)
	}
	n.Eventually("another client serves", func() error { return serves(n, record) })
}

// stuckNode is a node on which the client of a mount is dead, none can be made,
// the pod does not end, and somebody waits.
func stuckNode(t *testing.T, n *nodetest.Node) (record store.Record, waiter <-chan error) {
	t.Helper()
	target := n.Target("one")
	record = publish(t, n, "pv-1", target)
	write(t, n, filepath.Join(target, "f"), "hello")
	n.Kubelet.Refuse(func(*corev1.Pod, int) *corev1.PodStatus { return failedStatus("NodeAffinity", "refused") })
	n.Kubelet.Stick(record.Client.PodUID)
	n.Kubelet.Kill(record.Client.PodUID)
	ended := make(chan error, 1)
	go func() { ended <- read(n, filepath.Join(target, "f"), "hello") }()
	err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), record.Client.PodName, metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return record, ended
}

func TestAMountWhosePodIsStuckIsGivenUp(t *testing.T) {
	n := nodetest.NewNode(t)
	record, waiter := stuckNode(t, n)
	if err := <-waiter; err == nil {
		t.Error("the reader got what nobody served")
	}
	if now := current(t, n, record.ID); now.State == "Recovering" || now.Reason != "MountPodStuck" {
		t.Errorf("state %s, reason %s", now.State, now.Reason)
	}
	n.Kubelet.Refuse(nil)
	n.Eventually("a new connection is made", func() error {
		return read(n, filepath.Join(record.References[0].TargetPath, "f"), "hello")
	})
}

func TestAStuckMountPodIsLeftAloneWhereThatIsWanted(t *testing.T) {
	n := nodetest.NewNode(t)
	off := false
	n.SetConfig(volume.Config{EnableAutoAbortStuckMountPod: &off})
	record, waiter := stuckNode(t, n)
	n.Eventually("it was tried again", func() error {
		if calls(n)["create"] < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if now := current(t, n, record.ID); now.State != "Recovering" {
		t.Errorf("state %s, reason %s", now.State, now.Reason)
	}
	n.Kubelet.Refuse(nil)
	if err := <-waiter; err != nil {
		t.Errorf("the reader: %v", err)
	}
}

// Unpublishing needs no client: kubelet can end a pod whatever the mount does.
func TestATargetOfAHangingMountIsUnpublished(t *testing.T) {
	n := nodetest.NewNode(t)
	hanging, free := n.Target("hanging"), n.Target("free")
	record := publish(t, n, "pv-1", hanging)
	other := request(n, free)
	other.VolumeID = "pv-2"
	if _, _, err := n.Manager.Publish(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	stopped := n.Kubelet.Descendants(record.Client.PodUID)
	for _, pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		_, _ = n.Command("stat", filepath.Join(hanging, "f"))
	}()
	for _, target := range []string{hanging, free} {
		began := time.Now()
		if err := n.Manager.Unpublish(t.Context(), target); err != nil {
			t.Error(err)
		}
		t.Logf("unpublished in %v", time.Since(began).Round(time.Microsecond))
	}
	for _, pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	<-reader
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}
