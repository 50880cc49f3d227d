package mountpod_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// shaped is the spec of a mount whose pod has a usual shape, changed.
func shaped(change func(*mountpod.Spec)) mountpod.Spec {
	spec := mountpod.Spec{
		Name: "one", MountID: "m1", LauncherDir: "/launcher", Targets: []string{"/t/one"},
		Settings: volume.Settings{
			UniqueID: "pv-1", ShareMode: volume.ShareByVolume, Hash: "h1",
			Pod: volume.PodShape{
				Image: "mount:1", CacheDirs: []string{"/cache"}, MetricsPort: 9567,
				Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"note": "b"},
				Resources: volume.Resources{
					Requests: map[string]string{"cpu": "1", "memory": "1Gi"}, Limits: map[string]string{"cpu": "5", "memory": "5Gi"},
				},
			},
		},
	}
	if change != nil {
		change(&spec)
	}
	return spec
}

func amounts(requests, limits map[string]string) func(*mountpod.Spec) {
	return func(s *mountpod.Spec) {
		s.Settings.Pod.Resources = volume.Resources{Requests: requests, Limits: limits}
	}
}

func TestShapeKey(t *testing.T) {
	const same, other, none = "same", "other", "none"
	usual, err := mountpod.ShapeKey(shaped(nil))
	if err != nil || len(validation.IsValidLabelValue(usual)) > 0 {
		t.Fatalf("key %q, %v", usual, err)
	}
	for name, c := range map[string]struct {
		change func(*mountpod.Spec)
		want   string
	}{
		"another mount": {func(s *mountpod.Spec) {
			s.Name, s.MountID, s.Targets = "two", "m2", nil
			s.Settings.UniqueID, s.Settings.Hash, s.Settings.CleanCache, s.Settings.DeleteDelay = "pv-2", "h2", true, 5
			s.Settings.Client, s.Settings.Env = []string{"mount"}, []volume.EnvVar{{Name: "a", Value: "b"}}
		}, same},
		"other amounts": {amounts(
			map[string]string{"cpu": "2", "memory": "3Gi"}, map[string]string{"cpu": "4", "memory": "9Gi"}), same},
		"image":              {func(s *mountpod.Spec) { s.Settings.Pod.Image = "mount:2" }, other},
		"cache directory":    {func(s *mountpod.Spec) { s.Settings.Pod.CacheDirs = []string{"/other"} }, other},
		"host path":          {func(s *mountpod.Spec) { s.Settings.Pod.HostPaths = []string{"/data"} }, other},
		"label of the user":  {func(s *mountpod.Spec) { s.Settings.Pod.Labels = nil }, other},
		"launcher directory": {func(s *mountpod.Spec) { s.LauncherDir = "/elsewhere" }, other},
		"Secret": {func(s *mountpod.Spec) {
			s.Settings.Pod.SecretVolumes = []volume.SecretVolume{{Name: "a", Path: "/a"}}
		}, other},
		"another resource": {amounts(
			map[string]string{"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, map[string]string{"cpu": "5", "memory": "5Gi"}), other},
		"a limit that cannot be added": {amounts(
			map[string]string{"cpu": "1", "memory": "1Gi"}, map[string]string{"memory": "5Gi"}), other},
		"no resources":          {amounts(nil, nil), other},
		"Guaranteed":            {amounts(nil, map[string]string{"cpu": "5", "memory": "5Gi"}), none},
		"port of the host":      {func(s *mountpod.Spec) { s.Settings.Pod.HostNetwork = true }, none},
		"host network, no port": {func(s *mountpod.Spec) { s.Settings.Pod.HostNetwork, s.Settings.Pod.MetricsPort = true, 0 }, other},
	} {
		key, err := mountpod.ShapeKey(shaped(c.change))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := other
		switch key {
		case usual:
			got = same
		case "":
			got = none
		}
		if got != c.want {
			t.Errorf("%s: the shape is %s, want %s", name, got, c.want)
		}
	}
	if _, err := mountpod.ShapeKey(shaped(amounts(map[string]string{"cpu": "many"}, nil))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a wrong quantity: %v", err)
	}
}

func TestASpareReservesLittleAndNamesNoMount(t *testing.T) {
	pod, err := mountpod.BuildSpare(shaped(nil), "key")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{mountpod.NameLabel: mountpod.NameValue, mountpod.SpareLabel: "key", "team": "a"}
	if len(pod.Labels) != len(want) {
		t.Errorf("labels %v, want %v", pod.Labels, want)
	}
	for key, value := range want {
		if pod.Labels[key] != value {
			t.Errorf("labels %v, want %v", pod.Labels, want)
		}
	}
	annotations := map[string]string{"note": "b", "cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
	if diff := cmp.Diff(annotations, pod.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	resources := pod.Spec.Containers[0].Resources
	for _, c := range []struct {
		list corev1.ResourceList
		name corev1.ResourceName
		want string
	}{
		{resources.Requests, corev1.ResourceCPU, "10m"}, {resources.Requests, corev1.ResourceMemory, "16Mi"},
		{resources.Limits, corev1.ResourceCPU, "5"}, {resources.Limits, corev1.ResourceMemory, "5Gi"},
	} {
		if quantity := c.list[c.name]; !quantity.Equal(resource.MustParse(c.want)) {
			t.Errorf("%s is %s, want %s", c.name, quantity.String(), c.want)
		}
	}
}

func TestASpareBecomesTheMountsPod(t *testing.T) {
	client := fake.NewClientset()
	pods := mountpod.NewPods(client, "ns", "node", "/kubelet")
	made := shaped(func(s *mountpod.Spec) { s.Name, s.MountID, s.Settings.UniqueID = "spare", "", "" })
	if _, err := pods.CreateSpare(t.Context(), made, "key"); err != nil {
		t.Fatal(err)
	}
	wanted := shaped(func(s *mountpod.Spec) {
		s.Name = "spare"
		amounts(map[string]string{"cpu": "2"}, map[string]string{"cpu": "5", "memory": "6Gi"})(s)
	})
	spare := store.Client{PodName: "spare"}
	if err := pods.Label(t.Context(), spare, wanted); err != nil {
		t.Fatal(err)
	}
	if err := pods.Resize(t.Context(), spare, wanted); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Pods("ns").Get(t.Context(), "spare", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := mountpod.Build(wanted)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pod.Labels, got.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pod.Annotations, got.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	requests := got.Spec.Containers[0].Resources.Requests
	cpu, memory := requests[corev1.ResourceCPU], requests[corev1.ResourceMemory]
	if !cpu.Equal(resource.MustParse("2")) || !memory.Equal(resource.MustParse("6Gi")) {
		t.Errorf("requests %v, want the limit of memory where no request is given", requests)
	}
	if err := pods.Label(t.Context(), store.Client{PodName: "gone"}, wanted); err != nil {
		t.Errorf("label a pod that is gone: %v", err)
	}
	if err := pods.Resize(t.Context(), store.Client{PodName: "gone"}, wanted); !errdefs.IsNotFound(err) {
		t.Errorf("resize a pod that is gone: %v", err)
	}
}

func TestResizeTellsWhatMayPass(t *testing.T) {
	pods := corev1.Resource("pods")
	for name, c := range map[string]struct {
		answer error
		is     func(error) bool
	}{
		"refused":  {apierrors.NewForbidden(pods, "spare", nil), errdefs.IsPermissionDenied},
		"invalid":  {apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), "spare", nil), errdefs.IsInvalidArgument},
		"away":     {apierrors.NewServiceUnavailable("away"), errdefs.IsUnavailable},
		"unknown":  {apierrors.NewGenericServerResponse(404, "patch", pods, "spare", "404 page not found", 0, true), errdefs.IsNotImplemented},
		"gone":     {apierrors.NewNotFound(pods, "spare"), errdefs.IsNotFound},
		"conflict": {apierrors.NewConflict(pods, "spare", nil), errdefs.IsUnavailable},
	} {
		client := fake.NewClientset()
		client.PrependReactor("patch", "pods/resize", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.answer })
		err := mountpod.NewPods(client, "ns", "node", "/kubelet").Resize(t.Context(), store.Client{PodName: "spare"}, shaped(nil))
		if !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	client := fake.NewClientset()
	err := mountpod.NewPods(client, "ns", "node", "/kubelet").Resize(t.Context(), store.Client{}, shaped(amounts(nil, nil)))
	if err != nil || len(client.Actions()) > 0 {
		t.Errorf("a pod without resources: %v, requests %v", err, client.Actions())
	}
}

func TestUnresized(t *testing.T) {
	condition := func(kind corev1.PodConditionType, status corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
			{Type: kind, Status: status, Reason: corev1.PodReasonInfeasible, Message: "why"},
		}}}
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"new":         {&corev1.Pod{}, ""},
		"infeasible":  {condition(corev1.PodResizePending, corev1.ConditionTrue), "Infeasible"},
		"over":        {condition(corev1.PodResizePending, corev1.ConditionFalse), ""},
		"in progress": {condition(corev1.PodResizeInProgress, corev1.ConditionTrue), ""},
	} {
		if reason, _ := mountpod.Unresized(c.pod); reason != c.want {
			t.Errorf("%s: %q, want %q", name, reason, c.want)
		}
	}
}
