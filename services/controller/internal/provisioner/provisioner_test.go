package provisioner

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/deletion"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

const driverName = "csi.juicefs.com"

// recorder is a Remover that does nothing.
type recorder struct {
	removed []deletion.Volume
}

func (r *recorder) Remove(_ context.Context, v deletion.Volume) error {
	r.removed = append(r.removed, v)
	return nil
}

func testSecret() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "jfs"},
		Data:       map[string][]byte{"name": []byte("myjfs"), "metaurl": []byte("redis://host/1")},
	}
}

func testProvisioner(objects ...runtime.Object) (*Provisioner, *recorder, *fake.Clientset) {
	client := fake.NewClientset(append(objects, testSecret())...)
	remover := &recorder{}
	return &Provisioner{
		Client: client, Remover: remover,
		Installation: installation.Installation{DriverName: driverName, Defaults: volume.Defaults{CommunityImage: "image"}},
	}, remover, client
}

func testOptions() controller.ProvisionOptions {
	return controller.ProvisionOptions{
		PVName: "pvc-1",
		StorageClass: &storagev1.StorageClass{
			ObjectMeta:    metav1.ObjectMeta{Name: "jfs"},
			ReclaimPolicy: new(corev1.PersistentVolumeReclaimRetain),
			MountOptions:  []string{"cache-size=1,metrics=0.0.0.0:9567", "custom-labels=ns:${.PVC.namespace}"},
			Parameters: map[string]string{
				publishName: "${pvc.annotations['secret']}", publishNamespace: "${pvc.namespace}",
				expandName: "jfs", expandNamespace: "apps",
				"juicefs/mount-cpu-limit": "2",
				"juicefs/mount-labels":    `{"claim": "${.pvc.name}"}`,
			},
		},
		PVC: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "apps", Name: "data", Labels: map[string]string{"team": "red"},
				Annotations: map[string]string{"secret": "jfs", "evil": "../..", "comma": "a,b"},
			},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
				Resources: corev1.VolumeResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
				},
			},
		},
	}
}

func TestProvision(t *testing.T) {
	p, _, client := testProvisioner()
	pv, state, err := p.Provision(t.Context(), testOptions())
	if err != nil || state != controller.ProvisioningFinished {
		t.Fatal(state, err)
	}
	want := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
			MountOptions:                  []string{"cache-size=1", "metrics=0.0.0.0:9567", "custom-labels=ns:apps"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: "pvc-1", FSType: "juicefs",
				NodePublishSecretRef:      &corev1.SecretReference{Namespace: "apps", Name: "jfs"},
				ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "apps", Name: "jfs"},
				VolumeAttributes: map[string]string{
					"subPath": "pvc-1", "capacity": "10737418240",
					"juicefs/mount-cpu-limit": "2", "juicefs/mount-labels": `{"claim": "data"}`,
				},
			}},
		},
	}
	if diff := cmp.Diff(want, pv); diff != "" {
		t.Errorf("volume (-want +got):\n%s", diff)
	}
	for _, action := range client.Actions() {
		if action.GetVerb() != "get" {
			t.Errorf("provisioning did %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
}

func TestProvisionPathPattern(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "z1"}}}
	for pattern, want := range map[string]string{
		"${.PVC.namespace}-${.PVC.name}":     "apps-data",
		"/${.pvc.labels.team}/${.PVC.name}/": "red/data",
		"${.PVC.labels.missing}x":            "x",
		"static":                             "static",
		"${.node.name}/${.node.labels.zone}": "n1/z1",
		"${PVC.annotations.secret}":          "jfs",
	} {
		p, _, _ := testProvisioner(node)
		options := testOptions()
		options.SelectedNodeName = "n1"
		options.StorageClass.Parameters["pathPattern"] = pattern
		pv, _, err := p.Provision(t.Context(), options)
		if err != nil || pv.Spec.CSI.VolumeAttributes["subPath"] != want {
			t.Errorf("%s: got %v, %v, want %s", pattern, pv, err, want)
		}
	}
}

func TestProvisionRefuses(t *testing.T) {
	parameter := func(key, value string) func(*controller.ProvisionOptions) {
		return func(options *controller.ProvisionOptions) { options.StorageClass.Parameters[key] = value }
	}
	for name, test := range map[string]struct {
		change func(*controller.ProvisionOptions)
		want   string
	}{
		"selector": {func(o *controller.ProvisionOptions) { o.PVC.Spec.Selector = &metav1.LabelSelector{} }, "spec.selector"},
		"data source": {func(o *controller.ProvisionOptions) {
			o.PVC.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "VolumeSnapshot", Name: "s"}
		}, "spec.dataSource"},
		"read-only": {func(o *controller.ProvisionOptions) {
			o.PVC.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		}, "ReadOnlyMany"},
		"empty path":      {parameter("pathPattern", "${.PVC.labels.missing}"), "root of the file system"},
		"root":            {parameter("pathPattern", "/"), "root of the file system"},
		"dots":            {parameter("pathPattern", "./."), "root of the file system"},
		"parent":          {parameter("pathPattern", "a/${.PVC.annotations.evil}/b"), "two dots"},
		"comma in path":   {parameter("pathPattern", "${.PVC.annotations.comma}"), "commas"},
		"comma in option": {parameter("mountOptions", "subdir=${.PVC.annotations.comma}"), "comma"},
		"unknown field":   {parameter("pathPattern", "${.PVC.uid}"), `"uid" is none of`},
		"no node":         {parameter("pathPattern", "${.node.name}"), "WaitForFirstConsumer"},
		"no secret name":  {parameter(publishName, ""), publishName},
		"missing secret":  {parameter(publishName, "other"), "there is no Secret apps/other"},
		"secret template": {parameter(publishName, "${pvc.uid}"), "${pvc.uid}"},
		"unknown key":     {parameter("juicefs/mount-cpu-limits", "1"), "did you mean juicefs/mount-cpu-limit?"},
		"bad option": {func(o *controller.ProvisionOptions) {
			o.StorageClass.MountOptions = []string{"kernel_cache"}
		}, "mount option kernel_cache"},
	} {
		p, _, _ := testProvisioner()
		options := testOptions()
		test.change(&options)
		pv, state, err := p.Provision(t.Context(), options)
		if err == nil || pv != nil || state != controller.ProvisioningFinished || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, test.want)
		}
	}
}

func TestProvisionNamesTheBadSecretKey(t *testing.T) {
	p, _, client := testProvisioner()
	secret := testSecret()
	secret.Data["name"] = []byte("Bad_Name")
	if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), secret, "apps"); err != nil {
		t.Fatal(err)
	}
	_, _, err := p.Provision(t.Context(), testOptions())
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "Secret apps/jfs: Secret key name: ") {
		t.Errorf("got %v", err)
	}
}

func testVolume(name, subPath string, options ...string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			MountOptions:                  options,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: name,
				VolumeAttributes:     map[string]string{"subPath": subPath},
				NodePublishSecretRef: &corev1.SecretReference{Namespace: "apps", Name: "jfs"},
			}},
		},
	}
}

func TestDelete(t *testing.T) {
	elsewhere := testVolume("elsewhere", "dir")
	elsewhere.Spec.CSI.NodePublishSecretRef.Name = "other"
	released := testVolume("released", "dir")
	released.Status.Phase = corev1.VolumeReleased
	for name, test := range map[string]struct {
		others  []runtime.Object
		removes bool
		fails   string
	}{
		"alone":                     {nil, true, ""},
		"another directory":         {[]runtime.Object{testVolume("b", "dir2")}, true, ""},
		"another file system":       {[]runtime.Object{elsewhere}, true, ""},
		"another subdir":            {[]runtime.Object{testVolume("b", "dir", "subdir=x")}, true, ""},
		"shared":                    {[]runtime.Object{testVolume("b", "/dir/")}, false, ""},
		"shared with one that goes": {[]runtime.Object{released}, true, ""},
		"another one inside":        {[]runtime.Object{testVolume("b", "dir/b")}, false, "volume b"},
	} {
		pv := testVolume("a", "dir")
		p, remover, _ := testProvisioner(append(test.others, pv)...)
		err := p.Delete(t.Context(), pv)
		if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s: got %v", name, err)
		}
		if (len(remover.removed) == 1) != test.removes {
			t.Errorf("%s: removed %v", name, remover.removed)
		}
	}
}

func TestDeleteNeedsToKnow(t *testing.T) {
	noSecret := testVolume("a", "dir")
	noSecret.Spec.CSI.NodePublishSecretRef.Name = "gone"
	noReference := testVolume("a", "dir")
	noReference.Spec.CSI.NodePublishSecretRef = nil
	for name, pv := range map[string]*corev1.PersistentVolume{
		"no subPath": testVolume("a", ""), "no secret": noSecret, "no reference": noReference,
	} {
		p, remover, _ := testProvisioner(pv)
		if err := p.Delete(t.Context(), pv); !errdefs.IsFailedPrecondition(err) || len(remover.removed) != 0 {
			t.Errorf("%s: got %v, removed %v", name, err, remover.removed)
		}
	}
}
