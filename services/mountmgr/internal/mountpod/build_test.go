package mountpod_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

var update = flag.Bool("update", false, "write the golden files anew")

// specs are the pods without a privilege that have a golden file of their name.
func specs() map[string]mountpod.Spec {
	all := basicSpecs()
	maps.Copy(all, shapedSpecs())
	return all
}

func basicSpecs() map[string]mountpod.Spec {
	spec := func(settings volume.Settings, targets ...string) mountpod.Spec {
		return mountpod.Spec{
			Name: "juicefs-node-1-pv-1-abcdef", Namespace: "kube-system", Node: "node-1", MountID: "0123456789abcdef",
			LauncherDir: "/var/lib/juicefs-csi/launcher", Settings: settings, Targets: targets,
		}
	}
	return map[string]mountpod.Spec{
		"plain": spec(volume.Settings{
			UniqueID: "pv-1", ShareMode: volume.ShareByVolume, Hash: strings.Repeat("a", 63),
			Pod: volume.PodShape{
				Image: "juicedata/mount:ce-v1.4.2", ServiceAccount: "juicefs-mount-sa", PriorityClass: "system-node-critical",
				CacheDirs: []string{"/var/jfsCache"},
			},
		}, "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv-1/mount"),
		"everything": spec(volume.Settings{
			UniqueID: "file system/one", ShareMode: volume.ShareByFileSystem, Hash: strings.Repeat("b", 63),
			DeleteDelay: 90 * time.Second, CleanCache: true,
			Env:   []volume.EnvVar{{Name: "META_PASSWORD", Value: "SECRET"}},
			Files: []volume.File{{Path: "/etc/key", Content: []byte("SECRET")}},
			Pod: volume.PodShape{
				Image: "juicedata/mount:ce-v1.4.2", ImagePullPolicy: "Always",
				Labels:         map[string]string{"team": "storage", mountpod.MountIDLabel: "not the user's to choose"},
				Annotations:    map[string]string{"example.com/note": "hello"},
				ServiceAccount: "juicefs-mount-sa",
				Resources: volume.Resources{
					Requests: map[string]string{"cpu": "500m", "memory": "1Gi"}, Limits: map[string]string{"memory": "5Gi"},
				},
				TerminationGracePeriodSeconds: 600,
				HostPaths:                     []string{"/data/", "/cache/one"},
				SecretVolumes:                 []volume.SecretVolume{{Name: "gcs-key", Path: "/root/.gcs/"}},
				CacheDirs:                     []string{"/cache/one", "/cache/two/"},
				MetricsPort:                   9567,
				HostNetwork:                   true,
			},
		}, "/t/one", "/t/two"),
	}
}

func shapedSpecs() map[string]mountpod.Spec {
	spec := func(shape volume.PodShape, launcher mountpod.Launcher) mountpod.Spec {
		shape.Image = "juicedata/mount:ce-v1.4.2"
		return mountpod.Spec{
			Name: "juicefs-node-1-pv-1-abcdef", Namespace: "kube-system", Node: "node-1", MountID: "0123456789abcdef",
			LauncherDir: "/var/lib/juicefs-csi/launcher", Launcher: launcher,
			Settings: volume.Settings{UniqueID: "pv-1", ShareMode: volume.ShareByVolume, Hash: strings.Repeat("c", 63), Pod: shape},
		}
	}
	host := mountpod.Launcher{Source: mountpod.LauncherFromHost}
	user := volume.PodShape{
		RunAsUser: new(int64(1000)), RunAsGroup: new(int64(2000)), FSGroup: new(int64(3000)), CacheVolumes: cacheVolumes(),
	}
	return map[string]mountpod.Spec{
		"cache-volumes": spec(volume.PodShape{CacheDirs: []string{"/mnt/ssd"}, CacheVolumes: cacheVolumes()}, host),
		"user": spec(volume.PodShape{
			RunAsUser: new(int64(1000)), CacheDirs: []string{"/var/jfsCache/uid-1000"},
			Env: []corev1.EnvVar{fieldEnv("NODE", "spec.nodeName")},
		}, host),
		"restricted-image":          spec(user, mountpod.Launcher{Source: mountpod.LauncherFromImage, Image: "juicefs-csi/mountmgr:v1"}),
		"restricted-init-container": spec(user, mountpod.Launcher{Source: mountpod.LauncherFromInitContainer, Image: "juicefs-csi/mountmgr:v1"}),
		"scheduled": spec(volume.PodShape{
			CacheVolumes: cacheVolumes()[2:],
			NodeSelector: map[string]string{"kubernetes.io/hostname": "node-1.example.com"}, SchedulerName: "other",
			Affinity:    &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}},
			Tolerations: []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}},
		}, host),
	}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func cacheVolumes() []volume.CacheVolume {
	limit := resource.MustParse("1Gi")
	return []volume.CacheVolume{
		{Path: "/var/jfsCache-0", Source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
		{Path: "/var/jfsCache-emptyDir", Source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}},
		{Path: "/var/jfsCache-ephemeral-0", Source: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{},
		}}},
		{Path: "/var/jfsCache-inlineVolume-0", Source: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "disks.example.com"}}},
	}
}

// ownSpec is all that users can add, which may be privileges.
func ownSpec() mountpod.Spec {
	spec := basicSpecs()["plain"]
	spec.Launcher = mountpod.Launcher{Source: mountpod.LauncherFromInitContainer, Image: "juicefs-csi/mountmgr:v1"}
	probe := func(command ...string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}}, PeriodSeconds: 5}
	}
	privileged := true
	spec.Settings.Pod = volume.PodShape{
		Image: "juicedata/mount:ce-v1.4.2", CacheDirs: []string{"/var/jfsCache"}, HostPID: true, Hostname: "pv-1",
		DNSPolicy: "None", DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}},
		LivenessProbe: probe("live"), ReadinessProbe: probe("ready"), StartupProbe: probe("started"),
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"stop"}}}},
		Env:       []corev1.EnvVar{fieldEnv("NODE", "spec.nodeName"), fieldEnv("IP", "status.hostIP")},
		Volumes: []corev1.Volume{
			{Name: "cache-0", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "disk", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "d"}}},
		},
		VolumeMounts:  []corev1.VolumeMount{{Name: "cache-0", MountPath: "/etc/own"}},
		VolumeDevices: []corev1.VolumeDevice{{Name: "disk", DevicePath: "/dev/cache"}},
		InitContainers: []corev1.Container{{
			Name: "prepare", Image: "tools:1", SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
		}},
	}
	return spec
}

// TestRestrictedPods asks what judges pods in a namespace whose Pod Security is
// restricted.
func TestRestrictedPods(t *testing.T) {
	judge, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, passes := range map[string]bool{"restricted-image": true, "restricted-init-container": true, "user": false, "plain": false} {
		pod, err := mountpod.Build(specs()[name])
		if err != nil {
			t.Fatal(err)
		}
		result := policy.AggregateCheckResults(judge.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
		if result.Allowed != passes {
			t.Errorf("%s: allowed %t: %s", name, result.Allowed, result.ForbiddenDetail())
		}
	}
}

func TestLauncherCheck(t *testing.T) {
	for _, c := range []struct {
		launcher mountpod.Launcher
		right    bool
	}{
		{mountpod.Launcher{}, true},
		{mountpod.Launcher{Source: mountpod.LauncherFromHost}, true},
		{mountpod.Launcher{Source: mountpod.LauncherFromImage, Image: "i"}, true},
		{mountpod.Launcher{Source: mountpod.LauncherFromImage}, false},
		{mountpod.Launcher{Source: mountpod.LauncherFromInitContainer}, false},
		{mountpod.Launcher{Source: "disk", Image: "i"}, false},
	} {
		if err := c.launcher.Check(); (err == nil) != c.right || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", c.launcher, err)
		}
	}
}

func TestBuild(t *testing.T) {
	all := specs()
	all["own"] = ownSpec()
	for name, spec := range all {
		t.Run(name, func(t *testing.T) {
			pod, err := mountpod.Build(spec)
			if err != nil {
				t.Fatal(err)
			}
			text, err := yaml.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(text)); diff != "" {
				t.Errorf("pod differs from %s (-want +got):\n%s", path, diff)
			}
			if strings.Contains(string(text), "SECRET") {
				t.Error("a secret is in the pod: it would be in the API")
			}
		})
	}
}

// What Pod Security calls restricted, as far as a mount pod can: it has host
// paths, and uid 0 without capabilities.
func TestMountPodsHaveNoPrivilege(t *testing.T) {
	for name, spec := range specs() {
		pod, err := mountpod.Build(spec)
		if err != nil {
			t.Fatal(err)
		}
		if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
			t.Errorf("%s: the pod gets a token", name)
		}
		if pod.Spec.HostPID || pod.Spec.HostIPC {
			t.Errorf("%s: the pod is in a namespace of the host", name)
		}
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, fault := range privileges(container) {
				t.Errorf("%s: container %s: %s", name, container.Name, fault)
			}
		}
		for _, v := range pod.Spec.Volumes {
			if v.HostPath != nil && strings.HasPrefix(v.HostPath.Path, "/dev") {
				t.Errorf("%s: volume %s is a device", name, v.Name)
			}
		}
	}
}

func privileges(c corev1.Container) []string {
	var faults []string
	note := func(bad bool, what string) {
		if bad {
			faults = append(faults, what)
		}
	}
	s := c.SecurityContext
	if s == nil {
		return []string{"no security context"}
	}
	note(s.Privileged == nil || *s.Privileged, "privileged")
	note(s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, "privilege escalation")
	dropped := s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"})
	note(!dropped || len(s.Capabilities.Add) > 0, "capabilities")
	note(s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "no seccomp profile")
	note(len(c.VolumeDevices) > 0, "a device")
	for _, mount := range c.VolumeMounts {
		note(mount.MountPropagation != nil && *mount.MountPropagation != corev1.MountPropagationNone, "mount propagation at "+mount.MountPath)
	}
	return faults
}

func TestBuildRefusesBadQuantities(t *testing.T) {
	for field, resources := range map[string]volume.Resources{
		"resources.requests.cpu":  {Requests: map[string]string{"cpu": "much"}},
		"resources.limits.memory": {Limits: map[string]string{"memory": "1 GB"}},
	} {
		_, err := mountpod.Build(mountpod.Spec{Settings: volume.Settings{Pod: volume.PodShape{Resources: resources}}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v, want an invalid argument that names it", field, err)
		}
	}
}

func TestName(t *testing.T) {
	for name, c := range map[string]struct{ node, uniqueID, want string }{
		"short":           {"node-1", "pv-1", "juicefs-node-1-pv-1-abcdef"},
		"capital letters": {"Node", "PVC-1", "juicefs-node-pvc-1-abcdef"},
		"strange":         {"node.example.com", "a/b_c d", "juicefs-node-example-com-a-b-c-d-abcdef"},
		"ends in a dash":  {"node", "pv-", "juicefs-node-pv-abcdef"},
		"empty":           {"", "", "juicefs-abcdef"},
	} {
		if got := mountpod.Name(c.node, c.uniqueID, "abcdef"); got != c.want {
			t.Errorf("%s: Name(%q, %q) = %s, want %s", name, c.node, c.uniqueID, got, c.want)
		}
	}
	seen := make(map[string]string)
	uniqueIDs := []string{strings.Repeat("x", 300), strings.Repeat("x", 301), strings.Repeat("x", 60) + "-", strings.Repeat("é", 40)}
	for _, uniqueID := range uniqueIDs {
		got := mountpod.Name("ip-10-0-0-1.eu-west-1.compute.internal", uniqueID, "abcdef")
		if faults := validation.IsDNS1123Label(got); len(faults) > 0 {
			t.Errorf("Name(%q) = %q: %v", uniqueID, got, faults)
		}
		if other, double := seen[got]; double {
			t.Errorf("%q and %q have the name %s", uniqueID, other, got)
		}
		seen[got] = uniqueID
	}
}

func TestReferenceKey(t *testing.T) {
	one, other := mountpod.ReferenceKey("/t/one"), mountpod.ReferenceKey("/t/two")
	if one == other || one != mountpod.ReferenceKey("/t/one") {
		t.Errorf("keys %s and %s, want one for each target", one, other)
	}
	if faults := validation.IsQualifiedName(one); len(faults) > 0 || !strings.HasPrefix(one, "juicefs-") {
		t.Errorf("key %s: %v", one, faults)
	}
}

func TestTheUniqueIDIsALabelValue(t *testing.T) {
	for _, uniqueID := range []string{"pv-1", "", "a/b", "-.a.-", strings.Repeat("x", 62) + ".tail", "日本"} {
		pod, err := mountpod.Build(mountpod.Spec{Settings: volume.Settings{UniqueID: uniqueID}})
		if err != nil {
			t.Fatal(err)
		}
		value := pod.Labels[mountpod.UniqueIDLabel]
		if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
			t.Errorf("%q becomes the label %q: %v", uniqueID, value, faults)
		}
		if pod.Annotations[mountpod.UniqueIDAnnotation] != uniqueID {
			t.Errorf("annotation %q, want %q whole", pod.Annotations[mountpod.UniqueIDAnnotation], uniqueID)
		}
	}
}
