package mountpod_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func mountPod(name, uid string) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "node"}}
	pod.Name, pod.Namespace, pod.UID = name, "ns", types.UID(uid)
	pod.Labels = map[string]string{mountpod.NameLabel: mountpod.NameValue}
	return pod
}

func TestDeletionSparesANamesakeAndIsIdempotent(t *testing.T) {
	client := fake.NewClientset(mountPod("p", "u"))
	pods := mountpod.NewPods(client, "ns", "node", "/var/lib/kubelet")
	var precondition *metav1.Preconditions
	client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if deletion, ok := action.(clienttesting.DeleteAction); ok {
			precondition = deletion.GetDeleteOptions().Preconditions
		}
		if precondition != nil && *precondition.UID == "another" {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "p", errors.New("uid differs"))
		}
		return false, nil, nil
	})
	for _, uid := range []string{"another", "u", "u"} {
		if err := pods.Delete(t.Context(), store.Client{PodName: "p", PodUID: uid}, 0); err != nil {
			t.Errorf("delete of uid %s: %v", uid, err)
		}
		if precondition == nil || string(*precondition.UID) != uid {
			t.Errorf("delete of uid %s had the precondition %v", uid, precondition)
		}
	}
}

func TestAnnotateLeavesOthersAlone(t *testing.T) {
	pod := mountPod("p", "u")
	pod.Annotations = map[string]string{"theirs": "1", "old/er~": "2"}
	client := fake.NewClientset(pod)
	value := "3"
	pods := mountpod.NewPods(client, "ns", "node", "/var/lib/kubelet")
	check := func(want map[string]string) {
		t.Helper()
		got, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got.Annotations, want) {
			t.Errorf("annotations %v, want %v", got.Annotations, want)
		}
	}
	changes := map[string]*string{"new": &value, "old/er~": nil, "never": nil}
	if err := pods.Annotate(t.Context(), store.Client{PodName: "p", PodUID: "another"}, changes); err == nil {
		t.Error("a namesake was annotated")
	}
	check(map[string]string{"theirs": "1", "old/er~": "2"})
	for range 2 {
		if err := pods.Annotate(t.Context(), store.Client{PodName: "p", PodUID: "u"}, changes); err != nil {
			t.Fatal(err)
		}
		check(map[string]string{"theirs": "1", "new": "3"})
	}
	if err := pods.Annotate(t.Context(), store.Client{PodName: "gone", PodUID: "u"}, changes); err != nil {
		t.Errorf("annotate a pod that is gone: %v", err)
	}
}

func TestErrorsOfTheAPIServerAreMapped(t *testing.T) {
	resource := schema.GroupResource{Resource: "pods"}
	for name, c := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"forbidden": {apierrors.NewForbidden(resource, "p", errors.New("quota")), errdefs.IsPermissionDenied},
		"exists":    {apierrors.NewAlreadyExists(resource, "p"), errdefs.IsAlreadyExists},
		"invalid":   {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "p", nil), errdefs.IsInvalidArgument},
		"away":      {apierrors.NewServiceUnavailable("later"), errdefs.IsUnavailable},
		"network":   {errors.New("connection refused"), errdefs.IsUnavailable},
	} {
		client := fake.NewClientset()
		client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.err })
		if _, err := mountpod.NewPods(client, "ns", "node", "/var/lib/kubelet").Create(t.Context(), mountpod.Spec{Name: "p"}); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWatchTellsOfMountPods(t *testing.T) {
	stranger := mountPod("stranger", "s")
	stranger.Labels = nil
	client := fake.NewClientset(mountPod("before", "b"), stranger)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- mountpod.NewPods(client, "ns", "node", "/var/lib/kubelet").Watch(ctx,
			func(pod *corev1.Pod) { events <- "changed " + pod.Name }, func(pod *corev1.Pod) { events <- "removed " + pod.Name })
	}()
	await(t, events, "changed before")
	if _, err := client.CoreV1().Pods("ns").Create(ctx, mountPod("after", "a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, events, "changed after")
	if err := client.CoreV1().Pods("ns").Delete(ctx, "after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, events, "removed after")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// await reads the next event, which must be want: a pod that is no mount pod
// has none.
func await(t *testing.T, events <-chan string, want string) {
	t.Helper()
	select {
	case got := <-events:
		if got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("no event %q", want)
	}
}
