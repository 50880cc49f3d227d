//go:build kernel

package manager_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// nodeWithSpares is a node with a mount, pv-0, and spares of its shape.
func nodeWithSpares(t *testing.T, options spare.Options) (*nodetest.Node, store.Record) {
	t.Helper()
	n := nodetest.NewNode(t)
	restart(n, options)
	record := publish(t, n, "pv-0", n.Target("zero"))
	awaitIdle(n, options.Count)
	return n, record
}

func restart(n *nodetest.Node, options spare.Options) {
	n.StopManager()
	n.Spares = options
	n.StartManager()
}

func awaitIdle(n *nodetest.Node, count int) {
	n.Eventually("there are spares", func() error {
		if idle := n.Manager.Spares.Idle(); idle != count {
			return fmt.Errorf("%d spares are idle, want %d", idle, count)
		}
		return nil
	})
}

func pods(t *testing.T, n *nodetest.Node) []corev1.Pod {
	t.Helper()
	list, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// spareUIDs are the uids of the pods that no mount has.
func spareUIDs(t *testing.T, n *nodetest.Node) []string {
	t.Helper()
	var uids []string
	for _, pod := range pods(t, n) {
		if _, isSpare := pod.Labels[mountpod.SpareLabel]; isSpare {
			uids = append(uids, string(pod.UID))
		}
	}
	return uids
}

// everyPodHasAPlace fails unless there are the pods of the mounts, labelled as
// such, and the spares, and no others.
func everyPodHasAPlace(t *testing.T, n *nodetest.Node, spares int) {
	t.Helper()
	n.Eventually("every pod is a mount's or a spare", func() error {
		wanted := make(map[string]string)
		for _, record := range n.Manager.List() {
			if record.State != lifecycle.Serving || record.Successor != nil {
				return fmt.Errorf("mount %s is %s", record.ID, record.State)
			}
			wanted[record.Client.PodUID] = record.ID
		}
		found := 0
		for _, pod := range pods(t, n) {
			if pod.Labels[mountpod.SpareLabel] != "" {
				found++
				continue
			}
			if id := wanted[string(pod.UID)]; id == "" || pod.Labels[mountpod.MountIDLabel] != id {
				return fmt.Errorf("pod %s with the labels %v is left", pod.Name, pod.Labels)
			}
			delete(wanted, string(pod.UID))
		}
		if len(wanted) > 0 || found != spares || n.Manager.Spares.Idle() != spares {
			return fmt.Errorf("pods without labels of their mounts: %v; %d spares, %d idle", wanted, found, n.Manager.Spares.Idle())
		}
		unsettled, err := n.Manager.Store.Unsettled()
		if len(unsettled) > 0 {
			return fmt.Errorf("pods %v are unsettled", unsettled)
		}
		return err
	})
}

// writes are the requests that change something, since the last ClearActions.
func writes(n *nodetest.Node) []string {
	var found []string
	for _, action := range n.Kubelet.Client.Actions() {
		if verb := action.GetVerb(); verb != "watch" && verb != "list" {
			found = append(found, strings.TrimSuffix(verb+" "+action.GetResource().Resource+"/"+action.GetSubresource(), "/"))
		}
	}
	slices.Sort(found)
	return found
}

func TestAColdPublishTakesTheSpare(t *testing.T) {
	n, first := nodeWithSpares(t, spare.Options{Count: 1})
	spares := spareUIDs(t, n)
	n.Eventually("nothing of the first mount is left to tell", func() error {
		pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), first.Client.PodName, metav1.GetOptions{})
		if err == nil && pod.Annotations[mountpod.UUIDAnnotation] == "" {
			err = errors.New("its pod does not show the file system")
		}
		return err
	})
	n.Kubelet.Client.ClearActions()
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	if record.Client.PodUID != spares[0] || !record.Client.FromSpare {
		t.Errorf("the client is %+v, want the spare %v", record.Client, spares)
	}
	write(t, n, filepath.Join(target, "f"), "hello")
	everyPodHasAPlace(t, n, 1)
	<-time.After(3 * time.Second) // Longer than what is left to tell is put off.
	want := []string{"create pods", "get persistentvolumes", "patch pods", "patch pods/resize"}
	if got := writes(n); !slices.Equal(got, want) {
		t.Errorf("requests %v, want %v", got, want)
	}
	pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Labels[mountpod.UniqueIDLabel] != "pv-1" || pod.Labels[mountpod.HashLabel] != record.SettingsHash ||
		pod.Annotations[mountpod.UniqueIDAnnotation] != "pv-1" || pod.Annotations[mountpod.ReferenceKey(target)] != target ||
		pod.Annotations[mountpod.UUIDAnnotation] != record.FileSystemUUID {
		t.Errorf("labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
	resources := pod.Spec.Containers[0].Resources
	if cpu := resources.Requests[corev1.ResourceCPU]; !cpu.Equal(resource.MustParse("1")) {
		t.Errorf("resources %v", resources)
	}
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	everyPodHasAPlace(t, n, 1)
}

func TestHandOverTakesTheSpare(t *testing.T) {
	n, record := nodeWithSpares(t, spare.Options{Count: 1})
	w := nodetest.StartWriter(t, filepath.Join(n.Target("zero"), "log"))
	w.AwaitMore(t, 50)
	served := servedBySpareAfter(t, n, record.ID, func(c store.Client) error {
		return n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), c.PodName, deleteOptions())
	})
	w.AwaitMore(t, 50)
	awaitIdle(n, 1)
	spares := spareUIDs(t, n)
	if upgrade(t, n, record.ID, manager.UpgradeRequest{}); current(t, n, record.ID).Client.PodUID != spares[0] {
		t.Errorf("the upgraded client has pod %s, as before: %s, want the spare %v", current(t, n, record.ID).Client.PodUID, served, spares)
	}
	w.AwaitMore(t, 50)
	w.StopAndCheck(t, n)
	everyPodHasAPlace(t, n, 1)
}

func TestRecoveryTakesTheSpare(t *testing.T) {
	n, record := nodeWithSpares(t, spare.Options{Count: 1})
	servedBySpareAfter(t, n, record.ID, func(c store.Client) error { n.Kubelet.Kill(c.PodUID); return nil })
	awaitIdle(n, 1)
	servedBySpareAfter(t, n, record.ID, func(c store.Client) error {
		n.StopManager()
		n.Kubelet.Kill(c.PodUID)
		n.StartManager()
		return nil
	})
	write(t, n, filepath.Join(n.Target("zero"), "f"), "hello")
	everyPodHasAPlace(t, n, 1)
}

// servedBySpareAfter ends the pod of a mount and returns the uid of the next
// one, which is the spare's.
func servedBySpareAfter(t *testing.T, n *nodetest.Node, id string, end func(store.Client) error) string {
	t.Helper()
	spares, old := spareUIDs(t, n), current(t, n, id).Client
	if err := end(old); err != nil {
		t.Fatal(err)
	}
	n.Eventually("another client serves", func() error {
		now := current(t, n, id)
		if now.State != lifecycle.Serving || now.Client.PodUID == old.PodUID {
			return fmt.Errorf("state %s, pod %s", now.State, now.Client.PodName)
		}
		return nil
	})
	now := current(t, n, id)
	if now.Client.PodUID != spares[0] {
		t.Errorf("the client has pod %s, want the spare %v", now.Client.PodUID, spares)
	}
	return now.Client.PodUID
}

func TestAnotherShapeGetsAPodOfItsOwn(t *testing.T) {
	t.Parallel()
	n, record := nodeWithSpares(t, spare.Options{Count: 1, Retention: 2 * time.Second})
	spares := spareUIDs(t, n)
	_, last := upgrade(t, n, record.ID, manager.UpgradeRequest{Image: olderImage})
	now := current(t, n, record.ID)
	if last.Phase != store.UpgradeCommitted || now.Client.FromSpare || now.Client.Image != olderImage {
		t.Fatalf("upgrade %+v, client %+v", last, now.Client)
	}
	n.Eventually("the spare has the new shape only", func() error {
		left := spareUIDs(t, n)
		if len(left) != 1 || left[0] == spares[0] {
			return fmt.Errorf("spares %v, the old one is %v", left, spares)
		}
		return nil
	})
	everyPodHasAPlace(t, n, 1)
	if err := n.Manager.Unpublish(t.Context(), n.Target("zero")); err != nil {
		t.Fatal(err)
	}
	n.Eventually("no spare outlives the retention", func() error {
		if left := pods(t, n); len(left) > 0 {
			return fmt.Errorf("%d pods are left, the first is %s", len(left), left[0].Name)
		}
		return nil
	})
	if shapes, err := n.Manager.Store.Shapes(); err != nil || len(shapes) > 0 {
		t.Errorf("shapes %v, %v are recorded", shapes, err)
	}
}

func TestSparesOutliveTheManagerAndEndWithTheFlag(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 2})
	before := spareUIDs(t, n)
	restart(n, spare.Options{Count: 2})
	awaitIdle(n, 2)
	if after := spareUIDs(t, n); !slices.Equal(before, after) {
		t.Errorf("spares %v after a restart, want %v", after, before)
	}
	if record := publish(t, n, "pv-1", n.Target("one")); !slices.Contains(before, record.Client.PodUID) {
		t.Errorf("the client has pod %s, want one of %v", record.Client.PodUID, before)
	}
	everyPodHasAPlace(t, n, 2)
	restart(n, spare.Options{Count: 1})
	everyPodHasAPlace(t, n, 1)
	restart(n, spare.Options{})
	everyPodHasAPlace(t, n, 0)
	if record := publish(t, n, "pv-2", n.Target("two")); record.Client.FromSpare {
		t.Errorf("the client is %+v without spares", record.Client)
	}
	everyPodHasAPlace(t, n, 0)
	// The mounts that are there bring their spares back.
	restart(n, spare.Options{Count: 1})
	everyPodHasAPlace(t, n, 1)
}

func TestASpareThatEndsIsReplaced(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	for name, end := range map[string]func(uid, podName string) error{
		"killed": func(uid, _ string) error { n.Kubelet.Kill(uid); return nil },
		"deleted": func(_, podName string) error {
			return n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), podName, deleteOptions())
		},
	} {
		spares := spareUIDs(t, n)
		recorded, err := n.Manager.Store.Spares()
		if err != nil || len(recorded) != 1 || recorded[0].PodUID != spares[0] {
			t.Fatalf("%s: recorded %v, %v, want %v", name, recorded, err, spares)
		}
		if err := end(spares[0], recorded[0].PodName); err != nil {
			t.Fatal(err)
		}
		n.Eventually("there is another spare", func() error {
			if left := spareUIDs(t, n); len(left) != 1 || left[0] == spares[0] {
				return fmt.Errorf("%s: spares %v, %v has ended", name, left, spares)
			}
			return nil
		})
		everyPodHasAPlace(t, n, 1)
	}
}

// What a mount manager leaves that is killed between two steps.
func TestNoPodIsLeftByAManagerThatDies(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*testing.T, *store.Store, store.Record, store.Spare) error{
		"before a spare was made": func(_ *testing.T, s *store.Store, _ store.Record, _ store.Spare) error {
			return s.PutSpare(store.Spare{PodName: "juicefs-node-spare-nothing", Shape: "x"})
		},
		"before the uid was recorded": func(_ *testing.T, s *store.Store, _ store.Record, left store.Spare) error {
			left.PodUID = ""
			return s.PutSpare(left)
		},
		"with an unknown spare": func(_ *testing.T, s *store.Store, _ store.Record, left store.Spare) error {
			return s.DeleteSpare(left.PodName)
		},
		"between taking and starting a successor": func(_ *testing.T, s *store.Store, r store.Record, left store.Spare) error {
			client := left.Client()
			r.State, r.Successor = lifecycle.HandingOver, &client
			return s.TakeSpare(r, left.PodName)
		},
		"between taking and starting in a recovery": func(_ *testing.T, s *store.Store, r store.Record, left store.Spare) error {
			client := left.Client()
			r.State, r.Successor = lifecycle.Recovering, &client
			return s.TakeSpare(r, left.PodName)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, record := nodeWithSpares(t, spare.Options{Count: 1})
			n.StopManager()
			records, err := store.Open(filepath.Join(n.Dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			spares, err := records.Spares()
			if err != nil || len(spares) != 1 {
				t.Fatalf("spares %v, %v", spares, err)
			}
			if err := errors.Join(leave(t, records, record, spares[0]), records.Close()); err != nil {
				t.Fatal(err)
			}
			n.StartManager()
			everyPodHasAPlace(t, n, 1)
			write(t, n, filepath.Join(n.Target("zero"), "f"), "hello")
		})
	}
}

// A publish is ended at each step that a record tells, and begins anew.
func TestAPublishWithASpareSurvivesTheManager(t *testing.T) {
	for step, reached := range map[string]func(store.Record) bool{
		"starting":   func(r store.Record) bool { return r.State == lifecycle.Starting },
		"taken":      func(r store.Record) bool { return r.Client.FromSpare },
		"identified": func(r store.Record) bool { return r.Client.Version != "" },
		"serving":    func(r store.Record) bool { return r.State == lifecycle.Serving },
	} {
		t.Run(step, func(t *testing.T) {
			n, _ := nodeWithSpares(t, spare.Options{Count: 1})
			_, changes, stop := n.Manager.Watch()
			defer stop()
			target := n.Target("one")
			published := make(chan error, 1)
			go func() {
				_, _, err := n.Manager.Publish(t.Context(), manager.PublishRequest{
					VolumeID: "pv-1", TargetPath: target, Attributes: n.Attributes(), Secret: n.Secret("test"),
				})
				published <- err
			}()
			for record := range changes {
				if record.UniqueID == "pv-1" && reached(record) {
					break
				}
			}
			n.StopManager()
			n.StartManager()
			publish(t, n, "pv-1", target)
			everyPodHasAPlace(t, n, 1)
			write(t, n, filepath.Join(target, "f"), "hello")
		})
	}
}

func TestASpareThatCannotBeResizedServes(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	n.Kubelet.Client.PrependReactor("patch", "pods/resize", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "x", errors.New("this node has no resize"))
	})
	record := publish(t, n, "pv-1", n.Target("one"))
	n.Eventually("the record says so", func() error {
		problem := current(t, n, record.ID).PodProblem
		if problem == nil || problem.PodUID != record.Client.PodUID || problem.Reason != "ResizeRefused" ||
			!strings.Contains(problem.Message, "this node has no resize") {
			return fmt.Errorf("problem %v", problem)
		}
		return nil
	})
	everyPodHasAPlace(t, n, 1)
}

func TestNoSparesWithoutResize(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	n.Kubelet.Client.PrependReactor("patch", "pods/resize", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewGenericServerResponse(404, "patch", corev1.Resource("pods"), "x", "404 page not found", 0, true)
	})
	if record := publish(t, n, "pv-1", n.Target("one")); !record.Client.FromSpare {
		t.Errorf("the client is %+v", record.Client)
	}
	everyPodHasAPlace(t, n, 0)
	if record := publish(t, n, "pv-2", n.Target("two")); record.Client.FromSpare {
		t.Errorf("the client is %+v", record.Client)
	}
	everyPodHasAPlace(t, n, 0)
}

func TestASpareThatIsTooLargeForTheNodeServes(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	record := publish(t, n, "pv-1", n.Target("one"))
	everyPodHasAPlace(t, n, 1)
	condition := corev1.PodCondition{
		Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible, Message: "too much memory",
	}
	for _, conditions := range [][]corev1.PodCondition{{condition}, nil} {
		api := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace)
		pod, err := api.Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status.Conditions = conditions
		if _, err := api.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		n.Eventually("the record follows", func() error {
			problem := current(t, n, record.ID).PodProblem
			if (problem != nil) != (conditions != nil) || problem != nil && problem.Reason != "ResizeInfeasible" {
				return fmt.Errorf("problem %v, conditions %v", problem, conditions)
			}
			return nil
		})
	}
}

// An API server that is away delays the labels, not the mount.
func TestLabelsOfASpareFollow(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	away := make(chan struct{})
	n.Kubelet.Client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-away:
			return false, nil, nil
		default:
			return true, nil, apierrors.NewServiceUnavailable("away")
		}
	})
	record := publish(t, n, "pv-1", n.Target("one"))
	if unsettled, err := n.Manager.Store.Unsettled(); err != nil || unsettled[record.Client.PodName] != record.ID {
		t.Errorf("unsettled %v, %v", unsettled, err)
	}
	n.StopManager()
	close(away)
	n.StartManager()
	everyPodHasAPlace(t, n, 1)
	if now := current(t, n, record.ID); now.Client.PodUID != record.Client.PodUID {
		t.Errorf("the pod %s was replaced by %s", record.Client.PodName, now.Client.PodName)
	}
}

func TestSettingsOfASpareAreThoseOfItsMount(t *testing.T) {
	n, _ := nodeWithSpares(t, spare.Options{Count: 1})
	n.SetConfig(volume.Config{MountPodPatch: []volume.Patch{{Resources: &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi"), corev1.ResourceCPU: resource.MustParse("2")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("7Gi"), corev1.ResourceCPU: resource.MustParse("3")},
	}}}})
	record := publish(t, n, "pv-1", n.Target("one"))
	if !record.Client.FromSpare {
		t.Fatalf("the client is %+v", record.Client)
	}
	everyPodHasAPlace(t, n, 1)
	pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if limit := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]; !limit.Equal(resource.MustParse("7Gi")) {
		t.Errorf("resources %v", pod.Spec.Containers[0].Resources)
	}
}
