// Light or dark: as the system has it, until somebody chooses.

import { remember, remembered } from './signal.js'

const light = matchMedia('(prefers-color-scheme: light)')

function apply() {
  const chosen = remembered('theme', '')
  document.documentElement.dataset.theme = chosen || (light.matches ? 'light' : 'dark')
}

export function switchTheme() {
  remember('theme', document.documentElement.dataset.theme === 'light' ? 'dark' : 'light')
  apply()
}

light.addEventListener('change', apply)
apply()
