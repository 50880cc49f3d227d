package startuptaint

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const (
	nodeName = "node-1"
	driver   = "csi.juicefs.com"
	key      = "csi.juicefs.com/agent-not-ready"
)

func taint(key string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Effect: effect, Value: "v"}
}

func node(taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "uid", ResourceVersion: "7"},
		Spec:       corev1.NodeSpec{PodCIDR: "10.0.0.0/24", Taints: taints},
	}
}

func csiNode(drivers ...string) *storagev1.CSINode {
	made := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	for _, name := range drivers {
		made.Spec.Drivers = append(made.Spec.Drivers, storagev1.CSINodeDriver{Name: name, NodeID: nodeName})
	}
	return made
}

func remover(client *fake.Clientset, ready func(context.Context) error) *Remover {
	return New(client, Options{Node: nodeName, Driver: driver, Ready: ready, Log: slog.New(slog.DiscardHandler)})
}

func always(context.Context) error { return nil }

func taints(t *testing.T, client *fake.Clientset) []corev1.Taint {
	t.Helper()
	found, err := client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found.Spec.PodCIDR != "10.0.0.0/24" {
		t.Errorf("the rest of the node is now %+v", found.Spec)
	}
	return found.Spec.Taints
}

func TestAttempt(t *testing.T) {
	other, ours := taint("other", corev1.TaintEffectNoSchedule), taint(key, corev1.TaintEffectNoExecute)
	mild := taint(key, corev1.TaintEffectPreferNoSchedule)
	notYet := func(context.Context) error { return errors.New("custody is not complete") }
	for name, c := range map[string]struct {
		objects []runtime.Object
		ready   func(context.Context) error
		want    []corev1.Taint
		fails   string
	}{
		"others stay":       {[]runtime.Object{node(other, ours, mild), csiNode("x", driver)}, always, []corev1.Taint{other, mild}, ""},
		"the only one":      {[]runtime.Object{node(ours), csiNode(driver)}, always, nil, ""},
		"both effects":      {[]runtime.Object{node(ours, taint(key, corev1.TaintEffectNoSchedule)), csiNode(driver)}, always, nil, ""},
		"no taint":          {[]runtime.Object{node(other)}, notYet, []corev1.Taint{other}, ""},
		"not ready":         {[]runtime.Object{node(ours), csiNode(driver)}, notYet, []corev1.Taint{ours}, "custody is not complete"},
		"no CSINode":        {[]runtime.Object{node(ours)}, always, []corev1.Taint{ours}, "not registered"},
		"another's CSINode": {[]runtime.Object{node(ours), csiNode("csi.other.com")}, always, []corev1.Taint{ours}, "not registered"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(c.objects...)
			err := remover(client, c.ready).attempt(t.Context())
			if c.fails == "" && err != nil || c.fails != "" && (!errors.Is(err, errNotReady) || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("attempt = %v, want %q", err, c.fails)
			}
			if got := taints(t, client); !slices.Equal(got, c.want) {
				t.Errorf("taints %v, want %v", got, c.want)
			}
		})
	}
}

// conflicts refuses patches, as the API server does for a node that was
// changed since it was read, and lets somebody change it meanwhile.
func conflicts(client *fake.Clientset, times int, meanwhile func(*corev1.Node)) *atomic.Int32 {
	var patches atomic.Int32
	client.PrependReactor("patch", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
		patch, _ := action.(clienttesting.PatchAction)
		var content struct {
			Metadata struct{ ResourceVersion string }
		}
		if err := json.Unmarshal(patch.GetPatch(), &content); err != nil || content.Metadata.ResourceVersion == "" {
			return true, nil, errors.New("patch without resourceVersion")
		}
		if int(patches.Add(1)) > times {
			return false, nil, nil
		}
		resource := schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
		object, err := client.Tracker().Get(resource, "", nodeName)
		if changed, ok := object.(*corev1.Node); ok && err == nil {
			meanwhile(changed)
			err = client.Tracker().Update(resource, changed, "")
		}
		return true, nil, errors.Join(err, apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, nodeName, errors.New("changed")))
	})
	return &patches
}

func TestAConflictIsTriedAgainWithTheNewTaints(t *testing.T) {
	added := taint("added", corev1.TaintEffectNoSchedule)
	client := fake.NewClientset(node(taint(key, corev1.TaintEffectNoExecute)), csiNode(driver))
	patches := conflicts(client, 1, func(changed *corev1.Node) { changed.Spec.Taints = append(changed.Spec.Taints, added) })
	err := remover(client, always).attempt(t.Context())
	if got := taints(t, client); err != nil || patches.Load() != 2 || !slices.Equal(got, []corev1.Taint{added}) {
		t.Errorf("attempt = %v after %d patches, taints %v", err, patches.Load(), got)
	}
}

func TestSomebodyElseTakesItAway(t *testing.T) {
	client := fake.NewClientset(node(taint(key, corev1.TaintEffectNoExecute)), csiNode(driver))
	patches := conflicts(client, 1, func(changed *corev1.Node) { changed.Spec.Taints = nil })
	if err := remover(client, always).attempt(t.Context()); err != nil || patches.Load() != 1 {
		t.Errorf("attempt = %v after %d patches", err, patches.Load())
	}
}

// run lets a remover work in the bubble of a test.
func run(t *testing.T, client *fake.Clientset, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- remover(client, ready).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func addTaint(t *testing.T, client *fake.Clientset) {
	t.Helper()
	tainted := node(taint(key, corev1.TaintEffectNoSchedule))
	if _, err := client.CoreV1().Nodes().Update(t.Context(), tainted, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// pass lets time of the bubble go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestItGoesWhenTheNodeCanMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Bool
		client := fake.NewClientset(node(taint(key, corev1.TaintEffectNoExecute)))
		run(t, client, func(context.Context) error {
			if !ready.Load() {
				return errors.New("starting")
			}
			return nil
		})
		pass(time.Minute)
		if len(taints(t, client)) != 1 {
			t.Error("it went before the mount manager was ready")
		}
		ready.Store(true)
		pass(time.Minute)
		if len(taints(t, client)) != 1 {
			t.Error("it went before the driver was registered")
		}
		if _, err := client.StorageV1().CSINodes().Create(t.Context(), csiNode(driver), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(lastRetry)
		if got := taints(t, client); len(got) != 0 {
			t.Errorf("taints %v", got)
		}
	})
}

func TestItGoesAgainWheneverItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(node(), csiNode(driver))
		run(t, client, always)
		for _, age := range []time.Duration{time.Second, time.Hour} {
			pass(age)
			addTaint(t, client)
			pass(time.Second)
			if got := taints(t, client); len(got) != 0 {
				t.Errorf("after %v: taints %v", age, got)
			}
		}
	})
}

func TestRefusalsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(node(taint(key, corev1.TaintEffectNoExecute)), csiNode(driver))
		var refused atomic.Int32
		client.PrependReactor("patch", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			if refused.Add(1) > 100 {
				return false, nil, nil
			}
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, nodeName, errors.New("no right"))
		})
		run(t, client, always)
		pass(30 * time.Minute)
		if got := taints(t, client); len(got) != 0 {
			t.Errorf("taints %v after %d attempts", got, refused.Load())
		}
	})
}

func TestTheWatchIsNotNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(node(), csiNode(driver))
		client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("no right"))
		})
		run(t, client, always)
		pass(5*time.Minute + time.Second)
		addTaint(t, client)
		pass(checkInterval)
		if got := taints(t, client); len(got) != 0 {
			t.Errorf("taints %v", got)
		}
	})
}
