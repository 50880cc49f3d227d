// The page's words. A text that a language lacks falls back to English.
const texts = {
  en: {
    skip: "Skip to the list",
    views: "Views",
    appPods: "Application pods",
    mountPods: "Mount pods",
    live: "Live",
    refresh: "Refresh",
    language: "Language",
    theme: "Theme",
    signIn: "Sign in",
    signOut: "Sign out",
    signInHint: "Paste a Kubernetes token, for example from \"kubectl create token NAME\". "
      + "You see what this token may list. It stays in this browser tab.",
    token: "Token",
    cancel: "Cancel",
    namespace: "Namespace",
    allNamespaces: "all",
    filter: "Filter",
    filterHint: "name, volume, node …",
    status: "Status",
    anyStatus: "any",
    onlyProblems: "Only problems",
    columns: "Columns",
    more: "Show more",
    name: "Name",
    volumes: "Volumes",
    created: "Created",
    node: "Node",
    csiNode: "CSI node",
    image: "Image",
    uniqueId: "Shared by",
    apps: "Application pods",
    count: "{shown} of {total}",
    loading: "Loading …",
    none: "Nothing to show.",
    unbound: "not bound",
    why: "Why is {name} not running?",
    needSignIn: "Sign in with a Kubernetes token to see pods.",
    unreachable: "The dashboard does not answer: {cause}",
    release: "release {release}, mount pods in {namespace}",
  },
  zh: {
    skip: "跳到列表",
    views: "视图",
    appPods: "应用 Pod",
    mountPods: "Mount Pod",
    live: "自动刷新",
    refresh: "刷新",
    language: "语言",
    theme: "主题",
    signIn: "登录",
    signOut: "退出",
    signInHint: "请粘贴 Kubernetes 令牌，例如 “kubectl create token 名称” 的输出。"
      + "您能看到该令牌有权列出的内容。令牌只保存在当前浏览器标签页中。",
    token: "令牌",
    cancel: "取消",
    namespace: "命名空间",
    allNamespaces: "全部",
    filter: "筛选",
    filterHint: "名称、卷、节点 …",
    status: "状态",
    anyStatus: "任意",
    onlyProblems: "仅看异常",
    columns: "列",
    more: "显示更多",
    name: "名称",
    volumes: "卷",
    created: "创建时间",
    node: "节点",
    csiNode: "CSI 节点",
    image: "镜像",
    uniqueId: "共享标识",
    apps: "应用 Pod",
    count: "{shown} / {total}",
    loading: "加载中 …",
    none: "没有内容。",
    unbound: "未绑定",
    why: "{name} 为什么没有运行？",
    needSignIn: "请使用 Kubernetes 令牌登录后查看 Pod。",
    unreachable: "仪表盘没有响应：{cause}",
    release: "版本 {release}，Mount Pod 位于 {namespace}",
  },
};

let language = "en";

export function setLanguage(wanted) {
  language = wanted in texts ? wanted : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = t(element.dataset.label);
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
  return language;
}

export function t(key, values = {}) {
  const text = texts[language][key] ?? texts.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function formatTime(iso) {
  return iso ? new Date(iso).toLocaleString(document.documentElement.lang) : "";
}
