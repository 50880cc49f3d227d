package facts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/libs/volume"
)

const (
	driver = "csi.juicefs.com"
	root   = "/var/lib/kubelet"
)

func target(name string) string {
	return root + "/pods/7d2e/volumes/kubernetes.io~csi/" + name + "/mount"
}

func pv(name, handle, claim string) *corev1.PersistentVolume {
	made := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	made.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
	made.Spec.StorageClassName = "fast"
	if claim != "" {
		made.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: claim}
	}
	return made
}

func pvc(name, volumeName string) *corev1.PersistentVolumeClaim {
	class := "fast"
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
		},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volumeName, StorageClassName: &class},
	}
}

func class(secret string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Parameters: map[string]string{
		"csi.storage.k8s.io/node-publish-secret-name": secret, "pathPattern": "${.pvc.name}",
	}}
}

func pod(claims ...string) *corev1.Pod {
	made := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app"}}
	made.Spec.Volumes = []corev1.Volume{{Name: "tmp"}}
	for _, claim := range claims {
		made.Spec.Volumes = append(made.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
	return made
}

// claimed is what pvc makes.
var claimed = volume.Object{
	Namespace: "ns", Name: "data", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
}

func TestVolume(t *testing.T) {
	dynamic := map[string]string{"capacity": "1"}
	for name, c := range map[string]struct {
		objects  []runtime.Object
		request  Request
		want     Volume
		missing  string
		requests int
	}{
		"kubelet's path names the volume": {
			objects: []runtime.Object{pv("static", "h-1", "data"), pvc("data", "static")},
			request: Request{VolumeID: "h-1", TargetPath: target("static")},
			want:    Volume{Name: "static", Claim: claimed, StorageClass: "fast"}, requests: 2,
		},
		"with its class": {
			objects: []runtime.Object{pv("pvc-1", "pvc-1", "data"), pvc("data", "pvc-1"), class("secret")},
			request: Request{VolumeID: "pvc-1", TargetPath: target("pvc-1"), Attributes: dynamic, Class: true},
			want:    Volume{Name: "pvc-1", Claim: claimed, StorageClass: "fast"}, requests: 3,
		},
		"a class with templates": {
			objects: []runtime.Object{pv("pvc-1", "pvc-1", "data"), pvc("data", "pvc-1"), class("${pvc.name}")},
			request: Request{VolumeID: "pvc-1", TargetPath: target("pvc-1"), Attributes: dynamic, Class: true},
			want:    Volume{Name: "pvc-1", Claim: claimed, StorageClass: "fast", ClassTemplatesSecret: true}, requests: 3,
		},
		"a class that was deleted": {
			objects: []runtime.Object{pv("pvc-1", "pvc-1", "data"), pvc("data", "pvc-1")},
			request: Request{VolumeID: "pvc-1", TargetPath: target("pvc-1"), Attributes: dynamic, Class: true},
			want:    Volume{Name: "pvc-1", Claim: claimed, StorageClass: "fast", ClassTemplatesSecret: true}, requests: 3,
		},
		"another path, dynamic": {
			objects: []runtime.Object{pv("pvc-1", "pvc-1", "data"), pvc("data", "pvc-1")},
			request: Request{VolumeID: "pvc-1", TargetPath: "/data/target", Attributes: dynamic},
			want:    Volume{Name: "pvc-1", Claim: claimed, StorageClass: "fast"}, requests: 2,
		},
		"another path, found by the claims of the pod": {
			objects: []runtime.Object{pod("data"), pv("static", "h-1", "data"), pvc("data", "static")},
			request: Request{VolumeID: "h-1", TargetPath: "/data/target", Namespace: "ns", Pod: "app"},
			want:    Volume{Name: "static", Claim: claimed, StorageClass: "fast"}, requests: 3,
		},
		"another path, too many claims": {
			objects: []runtime.Object{
				pod("other", "data"), pv("o", "o", "other"), pvc("other", "o"), pv("static", "h-1", "data"), pvc("data", "static"),
			},
			request: Request{VolumeID: "h-1", TargetPath: "/data/target", Namespace: "ns", Pod: "app"},
			missing: "PersistentVolumeClaim ns/data is not read: 3 requests", requests: 3,
		},
		"no PersistentVolume": {
			request: Request{VolumeID: "h-1", TargetPath: target("static")},
			missing: "no PersistentVolume with volume handle h-1", requests: 1,
		},
		"not even a pod": {request: Request{VolumeID: "h-1", TargetPath: "/t"}, missing: "no PersistentVolume", requests: 0},
		"the volume of another driver or handle": {
			objects: []runtime.Object{pv("static", "other", "data")},
			request: Request{VolumeID: "h-1", TargetPath: target("static")},
			missing: "no PersistentVolume with volume handle h-1", requests: 1,
		},
		"a volume without a claim": {
			objects: []runtime.Object{pv("static", "h-1", "")},
			request: Request{VolumeID: "h-1", TargetPath: target("static")},
			want:    Volume{Name: "static", StorageClass: "fast"}, requests: 1,
		},
		"a claim that is gone": {
			objects: []runtime.Object{pv("static", "h-1", "data")},
			request: Request{VolumeID: "h-1", TargetPath: target("static")},
			want:    Volume{Name: "static", Claim: volume.Object{Namespace: "ns", Name: "data"}, StorageClass: "fast"},
			missing: "read PersistentVolumeClaim ns/data", requests: 2,
		},
		"a volume of the pod itself": {
			request: Request{
				VolumeID: "csi-1", TargetPath: target("scratch"), Attributes: map[string]string{"csi.storage.k8s.io/ephemeral": "true"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(c.objects...)
			got, err := NewSource(client, driver, root+"/").Volume(t.Context(), c.request)
			if c.missing == "" && err != nil || c.missing != "" && (err == nil || !strings.Contains(err.Error(), c.missing)) {
				t.Errorf("error %v, want %q", err, c.missing)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if n := len(client.Actions()); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}

func TestWhatIsReadIsRememberedForAMinute(t *testing.T) {
	client := fake.NewClientset(pv("static", "h-1", "data"), pvc("data", "static"))
	source := NewSource(client, driver, root)
	now := time.Now()
	source.cache.now = func() time.Time { return now }
	request := Request{VolumeID: "h-1", TargetPath: target("static")}
	ask := func(what string, later time.Duration, live bool, requests int) {
		t.Helper()
		now = now.Add(later)
		client.ClearActions()
		request.Live = live
		if _, err := source.Volume(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		if n := len(client.Actions()); n != requests {
			t.Errorf("%s: %d requests, want %d", what, n, requests)
		}
	}
	ask("cold", 0, false, 2)
	ask("again", freshFor-1, false, 0)
	ask("live, long after", time.Hour, true, 0)
	ask("not live, long after", 0, false, 2)
}

func TestFailuresThatMayPassAreNotRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		again int
		is    func(error) bool
	}{
		"forbidden": {
			apierrors.NewForbidden(corev1.Resource("persistentvolumes"), "static", errors.New("no")), 0, errdefs.IsPermissionDenied,
		},
		"not found": {apierrors.NewNotFound(corev1.Resource("persistentvolumes"), "static"), 0, errdefs.IsNotFound},
		"timeout": {
			fmt.Errorf("get: %w", context.DeadlineExceeded), 1, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
		},
		"overload": {apierrors.NewTooManyRequests("busy", 1), 1, apierrors.IsTooManyRequests},
	} {
		client := fake.NewClientset()
		client.PrependReactor("get", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, c.err
		})
		source := NewSource(client, driver, root)
		request := Request{VolumeID: "h-1", TargetPath: target("static")}
		if _, err := source.Volume(t.Context(), request); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
		client.ClearActions()
		_, err := source.Volume(t.Context(), request)
		if n := len(client.Actions()); n != c.again || err == nil {
			t.Errorf("%s, again: %d requests, %v", name, n, err)
		}
	}
}

func TestAVolumeThatWouldTakeTooManyRequestsIsSoughtOnce(t *testing.T) {
	client := fake.NewClientset(pod("one", "two"), pvc("one", "pv-one"), pv("pv-one", "h-other", "one"), pvc("two", "pv-two"))
	source := NewSource(client, driver, root)
	request := Request{VolumeID: "h-1", TargetPath: "/elsewhere", Namespace: "ns", Pod: "app"}
	for round := range 2 {
		if _, err := source.Volume(t.Context(), request); !errdefs.IsResourceExhausted(err) {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if n := len(client.Actions()); n > requestLimit {
		t.Errorf("%d requests", n)
	}
}

func TestPublishesAtTheSameTimeReadOnce(t *testing.T) {
	client := fake.NewClientset(pv("static", "h-1", "data"), pvc("data", "static"))
	begin := make(chan struct{})
	client.PrependReactor("get", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) {
		<-begin
		return false, nil, nil
	})
	source := NewSource(client, driver, root)
	var asked sync.WaitGroup
	for range 20 {
		asked.Go(func() {
			if _, err := source.Volume(t.Context(), Request{VolumeID: "h-1", TargetPath: target("static")}); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	asked.Wait()
	if n := len(client.Actions()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestNode(t *testing.T) {
	client := fake.NewClientset()
	node := NewNode(client, "n1", func() bool { return true })
	if _, err := node.Labels(); !errdefs.IsUnavailable(err) {
		t.Errorf("before the first reading: %v", err)
	}
	node.Refresh(t.Context())
	if _, err := node.Labels(); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "n1") {
		t.Errorf("no such node: %v", err)
	}
	made := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a"}}}
	if err := client.Tracker().Add(made); err != nil {
		t.Fatal(err)
	}
	node.Refresh(t.Context())
	client.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("away") })
	node.Refresh(t.Context())
	if labels, err := node.Labels(); err != nil || labels["zone"] != "a" {
		t.Errorf("labels %v, %v", labels, err)
	}
}

func TestApp(t *testing.T) {
	source := NewSource(fake.NewClientset(pod("data")), driver, root)
	if found, err := source.App(t.Context(), "ns", "app"); err != nil || len(found.Spec.Volumes) != 2 {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := source.App(t.Context(), "ns", "other"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "ns/other") {
		t.Errorf("no such pod: %v", err)
	}
}
