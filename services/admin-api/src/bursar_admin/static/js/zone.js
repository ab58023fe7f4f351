// Before all else of a page: days begin where the viewer is, and the server knows the zone by this cookie alone. A page
// made without it, or for the zone of a journey that is over, is asked for again: once, and only where the cookie was kept.
(() => {
  const NAME = "bursar_tz", YEAR_S = 31_536_000;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const kept = () => document.cookie.split("; ").find((each) => each.startsWith(`${NAME}=`))?.slice(NAME.length + 1).replaceAll("%2F", "/");
  const before = kept();
  document.cookie = `${NAME}=${zone}; path=/; max-age=${YEAR_S}; samesite=strict`;
  if (before !== zone && kept() === zone) location.reload();
})();
